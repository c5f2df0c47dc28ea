"""Success labels of anybody's episodes: by hand, by judges, from columns and CSV files."""

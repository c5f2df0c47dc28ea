"""A lazy concatenation of frames of several arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class FrameView:
    """A read-only view [n ...] of rows of several arrays.

    Rows are copied only when indexed.
    Indexing along the first axis works as in NumPy and returns NumPy arrays.

    >>> view = FrameView([np.array([1, 2, 3]), np.array([10, 20])], [np.array([2, 0]), np.array([1])])
    >>> view[:].tolist()
    [3, 1, 20]
    """

    def __init__(self, arrays: Sequence[Any], rows: Sequence[np.ndarray]) -> None:
        """Select rows of arrays.

        Args:
            arrays: arrays with the same dtype and row shape.
            rows: int64 row indices, one array for each of `arrays`.
        """
        self._arrays = tuple(arrays)
        self._which = np.concatenate([np.full(len(part), k, np.int32) for k, part in enumerate(rows)])
        self._row = np.concatenate(list(rows)).astype(np.int64)
        self.dtype: np.dtype[Any] = arrays[0].dtype
        self.shape: tuple[int, ...] = (len(self._row), *arrays[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: Any) -> np.ndarray:
        which, row = self._which[index], self._row[index]
        if np.ndim(row) == 0:
            return self._arrays[int(which)][int(row)]
        out = np.empty((*row.shape, *self.shape[1:]), self.dtype)
        for k in np.unique(which):
            mask = which == k
            out[mask] = self._arrays[k][row[mask]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

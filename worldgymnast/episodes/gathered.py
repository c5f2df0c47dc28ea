"""Frames of several arrays behind one index, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Gathered:
    """A read-only array [n ...] whose row i is row `row[i]` of array `which[i]`; nothing is copied until it is indexed.

    It is indexed along its first axis, as numpy arrays are; what comes out is a numpy array.
    """

    def __init__(self, arrays: Sequence[Any], rows: Sequence[np.ndarray]) -> None:
        """Puts rows `rows[k]` (int64) of `arrays[k]` after one another; all have one dtype and one shape of a row."""
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
            here = which == k
            out[here] = self._arrays[k][row[here]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

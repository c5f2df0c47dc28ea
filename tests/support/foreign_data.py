"""Builders of small data sets as other programs write them.

Every frame carries (episode, index) as black and white blocks, which `ident` reads back: a test can say exactly which
frame stands beside which action.
"""

# ruff: noqa: E731, N803, N806, SIM
import io
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def frame(ep, i, h=64, w=64):
    bits = [(i >> k) & 1 for k in range(8)] + [(ep >> k) & 1 for k in range(8)]
    g = np.array(bits, np.uint8).reshape(4, 4) * 200 + 28
    out = np.asarray(Image.fromarray(g).resize((w, h), Image.NEAREST))
    return np.stack([out] * 3, -1).copy()


def ident(img):
    h, w = img.shape[:2]
    g = img.mean(-1)
    bits = [int(g[int((r + 0.5) * h / 4), int((c + 0.5) * w / 4)] > 128) for r in range(4) for c in range(4)]
    return sum(b << k for k, b in enumerate(bits[8:])), sum(b << k for k, b in enumerate(bits[:8]))


def episode(ep, n, **k):
    return np.stack([frame(ep, i, **k) for i in range(n)])


def mp4(path, frames, fps=10, codec="libx264", pix="yuv420p", opts=None, pts=None, tb=None, fmt=None, copts=None):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=fmt or "mp4", options=copts or {}) as c:
        s = c.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=opts or {})
        s.height, s.width = frames.shape[1:3]
        s.pix_fmt = pix
        if tb:
            s.codec_context.time_base = tb
        for i, f in enumerate(frames):
            v = av.VideoFrame.from_ndarray(np.ascontiguousarray(f), format="rgb24")
            v.pts = i if pts is None else pts[i]
            v.time_base = tb or (1 / Fraction(fps).limit_denominator(1001))
            c.mux(s.encode(v))
        c.mux(s.encode())


def acts(ep, n, d=7, seed=0):
    r = np.random.default_rng(1000 * ep + seed)
    a = r.uniform(-0.04, 0.04, (n, d)).astype(np.float32)
    a[:, 0] = ep * 0.001 + np.arange(n) * 1e-5
    a[:, -1] = np.arange(n) % 2
    return a


def info(
    d,
    key="observation.images.cam",
    fps=10,
    version="v3.0",
    dtype="video",
    h=64,
    w=64,
    n=0,
    f=0,
    names=None,
    extra=None,
    chunks=1000,
):
    three = version == "v3.0"
    return {
        "codebase_version": version,
        "robot_type": "x",
        "total_episodes": n,
        "total_frames": f,
        "total_tasks": 1,
        "chunks_size": chunks,
        "fps": fps,
        "splits": {"train": f"0:{n}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if three
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if three
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            key: {"dtype": dtype, "shape": [h, w, 3], "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": [d], "names": names},
            **(extra or {}),
        },
    }


def stats(A):
    A = np.concatenate(A)
    return {"action": {k: getattr(A, k)(0).tolist() for k in ("min", "max", "mean", "std")} | {"count": [len(A)]}}


def rows(ep, A, extra=None, start=0, fps=10, task=0):
    n = len(A)
    cols = {
        "action": pa.array(list(map(list, A.astype(float))), pa.list_(pa.float32())),
        "timestamp": pa.array((np.arange(n) / fps).astype(np.float32)),
        "frame_index": pa.array(np.arange(n)),
        "episode_index": pa.array(np.full(n, ep)),
        "index": pa.array(np.arange(start, start + n)),
        "task_index": pa.array(np.full(n, task)),
    }
    for k, v in (extra or {}).items():
        cols[k] = v if isinstance(v, pa.Array) else pa.array(v)
    return pa.table(cols)


def v21(
    root,
    lens=(5, 7),
    d=7,
    tasks=None,
    key="observation.images.cam",
    fps=10,
    extra=None,
    videos=True,
    wrap=True,
    indices=None,
    video_len=None,
    chunks=1000,
    dtype="video",
    task_rows=None,
    **vk,
):
    root = Path(root)
    A, ep_lines, tot = {}, [], 0
    indices = list(indices or range(len(lens)))
    tasks = tasks or [f"do thing {e}" for e in indices]
    for j, (e, n) in enumerate(zip(indices, lens, strict=False)):
        A[e] = acts(e, n, d)
        t = tasks[j] if not wrap else [tasks[j]]
        ep_lines.append({"episode_index": e, "tasks": t, "length": n})
        p = root / f"data/chunk-{e // chunks:03d}/episode_{e:06d}.parquet"
        p.parent.mkdir(parents=True, exist_ok=True)
        ex = extra(e, n) if extra else None
        pq.write_table(rows(e, A[e], ex, tot, fps, task=j), p)
        if videos:
            mp4(
                root / f"videos/chunk-{e // chunks:03d}/{key}/episode_{e:06d}.mp4",
                episode(e, video_len[j] if video_len else n),
                fps,
                **vk,
            )
        tot += n
    m = root / "meta"
    m.mkdir(parents=True, exist_ok=True)
    (m / "info.json").write_text(json.dumps(info(d, key, fps, "v2.1", dtype, n=len(lens), f=tot, chunks=chunks)))
    (m / "episodes.jsonl").write_text(
        "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in ep_lines), encoding="utf-8"
    )
    (m / "tasks.jsonl").write_text(
        "".join(
            json.dumps({"task_index": i, "task": t}, ensure_ascii=False) + "\n"
            for i, t in enumerate(task_rows or tasks)
        ),
        encoding="utf-8",
    )
    (m / "episodes_stats.jsonl").write_text(
        "".join(json.dumps({"episode_index": e, "stats": stats([a])}) + "\n" for e, a in A.items())
    )
    return A


def v3(
    root,
    lens=(5, 7),
    d=7,
    tasks=None,
    key="observation.images.cam",
    fps=10,
    video_fps=None,
    from_ts=None,
    extra=None,
    images=None,
    rows_fn=None,
    names=None,
    feats=None,
    ep_extra=None,
    info_fps=None,
    **vk,
):
    root = Path(root)
    A, tabs, tot, recs, fr = {}, [], 0, [], []
    tasks = tasks or [f"do thing {e}" for e in range(len(lens))]
    vf = video_fps or fps
    for e, n in enumerate(lens):
        A[e] = acts(e, n, d)
        ex = dict(extra(e, n)) if extra else {}
        if images:
            ex[key] = images(e, n)
        tabs.append(rows(e, A[e], ex, tot, fps, task=e))
        at = tot / vf if from_ts is None else from_ts[e]
        r = {
            "episode_index": e,
            "tasks": [tasks[e]],
            "length": n,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": tot,
            "dataset_to_index": tot + n,
        }
        if not images:
            r |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": float(at),
                f"videos/{key}/to_timestamp": float(at + n / vf),
            }
        recs.append(r | (ep_extra(e) if ep_extra else {}))
        tot += n
        fr.append(episode(e, n))
    (root / "data/chunk-000").mkdir(parents=True, exist_ok=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    t = pa.concat_tables(tabs)
    if rows_fn:
        t = rows_fn(t)
    pq.write_table(t, root / "data/chunk-000/file-000.parquet")
    pq.write_table(
        pa.table({k: [r[k] for r in recs] for k in recs[0]}), root / "meta/episodes/chunk-000/file-000.parquet"
    )
    return _v3meta(root, d, key, info_fps or fps, images, tot, tasks, A, fr, vf, vk, names, feats)


def _v3meta(root, d, key, fps, images, tot, tasks, A, fr, vf, vk, names, feats):
    m = root / "meta"
    (m / "info.json").write_text(
        json.dumps(info(d, key, fps, "v3.0", "image" if images else "video", n=len(A), f=tot, names=names, extra=feats))
    )
    (m / "stats.json").write_text(json.dumps(stats(list(A.values()))))
    pq.write_table(pa.table({"task_index": list(range(len(tasks))), "__index_level_0__": tasks}), m / "tasks.parquet")
    if not images:
        mp4(root / f"videos/{key}/chunk-000/file-000.mp4", np.concatenate(fr), vf, **vk)
    return A


# ---- RLDS
def _vi(n):
    n &= (1 << 64) - 1
    out = b""
    while True:
        b = n & 0x7F
        n >>= 7
        out += bytes([b | (0x80 if n else 0)])
        if not n:
            return out


def _ld(num, b):
    return _vi(num << 3 | 2) + _vi(len(b)) + b


def feat(v):
    if isinstance(v, np.ndarray) and v.dtype.kind == "f":
        return _ld(2, _ld(1, v.astype("<f4").tobytes()))
    if isinstance(v, np.ndarray):
        return _ld(3, _ld(1, b"".join(_vi(int(x)) for x in v.ravel())))
    return _ld(1, b"".join(_ld(1, x) for x in v))


def example(d):
    return _ld(1, b"".join(_ld(1, _ld(1, k.encode()) + _ld(2, feat(v))) for k, v in d.items()))


def png(a, mode=None, fmt="PNG"):
    b = io.BytesIO()
    Image.fromarray(a, mode).save(b, fmt) if mode else Image.fromarray(a).save(b, fmt)
    return b.getvalue()


T = lambda shape, dt="float32": {
    "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
    "tensor": {"shape": {"dimensions": [str(x) for x in shape]}, "dtype": dt, "encoding": "none"},
}
TXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
IMG = lambda c=3, dt="uint8": {
    "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    "image": {"shape": {"dimensions": ["64", "64", str(c)]}, "dtype": dt, "encodingFormat": "png"},
}
FD = lambda f: {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {"features": f},
}


def features(steps):
    return FD(
        {
            "steps": {
                "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
                "sequence": {"feature": FD(steps), "length": "-1"},
            }
        }
    )


def rlds(root, episodes, steps, name="my_set", split="train", shards=1, info=True, fname=None, di=None):
    from worldgymnast.episodes.tfrecord import write_records

    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    parts = np.array_split(np.arange(len(episodes)), shards)
    for i, p in enumerate(parts):
        write_records(
            root / (fname or "{n}-{s}.tfrecord-{i:05d}-of-{k:05d}").format(n=name, s=split, i=i, k=shards),
            [example(episodes[j]) for j in p],
        )
    (root / "features.json").write_text(json.dumps(features(steps)))
    if info:
        (root / "dataset_info.json").write_text(
            json.dumps(di or {"name": name, "splits": [{"name": split, "shardLengths": [str(len(p)) for p in parts]}]})
        )

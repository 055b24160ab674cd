"""The table, the curves and the sheet of `loss_study`."""

import itertools
import statistics

import matplotlib.pyplot as plt
import numpy as np

from vim_tf.data.transforms import normalize, to_uint8
from vim_tf.drawing import grids
from vim_tf.drawing.spread_images import spread_images
from vim_tf.files import write_atomically
from vim_tf.runs.trained_run import open_run

SHOWN = 32
REFERENCE = "l2"  # the arm whose KID the others' are divided by
# (figure, heading, decimals)
FIGURES = [
    ("PSNR", "PSNR", 2),
    ("SSIM", "SSIM", 3),
    ("seam excess", "seam excess", 2),
    ("gradient energy", "gradient energy", 2),
    ("pseudo-LPIPS[hed]", "pseudo-LPIPS[hed]", 3),
    ("codebook usage", "codes used", 2),
]


def write(arms, workdir, judges):
    """Writes and prints the table; draws the curves.

    Args:
        arms: the finished `loss_study.Arm`s, of one seed after the other.
        workdir: the study's folder.
        judges: names of the feature networks.
    """
    table = make_table(arms, judges)
    write_atomically(workdir / "table.md", table.encode())
    print(f"\n{table}", flush=True)
    draw_curves(arms, workdir / "curves.png", judges)


def make_table(arms, judges):
    """Returns a Markdown table: a row for each arm, means and deviations over seeds."""
    figures = [figure for figure in FIGURES if any(figure[0] in arm.figures for arm in arms)]
    for judge in judges:
        figures += [(f"KID[{judge}]", f"KID[{judge}]", 4), (f"FD64[{judge}]", f"FD64[{judge}]", 2)]
    heads = ["arm", "seeds", "TFLOP", *(heading for _, heading, _ in figures)]
    heads += [f"KID / l2 [{judge}]" for judge in judges]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, group in _by_name(arms).items():
        row = [name, str(len(group)), f"{group[0].operations / 1e12:,.0f}"]
        for figure, _, decimals in figures:
            row.append(_spread([arm.figures.get(figure) for arm in group], decimals))
        for judge in judges:
            row.append(_spread(_ratios(arms, group, f"KID[{judge}]"), 2))
        lines.append(row)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _by_name(arms):
    names = dict.fromkeys(arm.name for arm in arms)
    return {name: [arm for arm in arms if arm.name == name] for name in names}


def _ratios(arms, group, figure):
    """The figure of each arm over that of the same seed's reference."""
    of_reference = {arm.seed: arm.figures for arm in arms if arm.name == REFERENCE}
    pairs = [(arm.figures.get(figure), of_reference.get(arm.seed, {}).get(figure)) for arm in group]
    return [None if None in pair else pair[0] / pair[1] for pair in pairs]


def _spread(values, decimals):
    """The mean, with the deviation over seeds if there are several."""
    values = [value for value in values if value is not None]
    if not values:
        return ""
    text = f"{statistics.mean(values):.{decimals}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{decimals}f}"


def draw_curves(arms, path, judges):
    """Draws each judge's KID over the operations since the fork, a line for each kind of arm."""
    if not judges:
        return
    figure, axes = plt.subplots(1, len(judges), figsize=(6 * len(judges), 4.5), squeeze=False)
    for axis, judge in zip(axes[0], judges, strict=True):
        for kind, group in itertools.groupby(sorted(arms, key=lambda a: a.kind), lambda a: a.kind):
            points = [
                (one[0].operations / 1e12, [arm.figures[f"KID[{judge}]"] for arm in one])
                for one in _by_name(list(group)).values()
            ]
            points.sort(key=lambda point: point[0])
            operations, values = zip(*points, strict=True)
            means, spreads = map(np.mean, values), map(np.std, values)
            axis.errorbar(operations, [*means], [*spreads], marker="o", ms=4, capsize=3, label=kind)
        axis.set_title(f"KID[{judge}]")
        axis.set_xlabel("TFLOP since the fork")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_sheet(arms, path):
    """Draws the same held-out images by each arm into a PNG file."""
    run = open_run(arms[0].path)
    originals = spread_images(run.data, "validation", SHOWN)[0]
    rows, names = [originals], ["originals"]
    for arm in arms:
        rows.append(to_uint8(open_run(arm.path).tokenizer(normalize(originals))))
        names.append(arm.name)
    zoom = max(1, 64 // originals.shape[1])
    grids.write_png(path, grids.labelled_rows(np.stack(rows), names, zoom))

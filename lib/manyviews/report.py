"""The report's tables and sentences, all computed from results, and its export."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from manyviews.claims import window_start
from manyviews.config import ClaimsConfig, NetworkConfig, TrainingConfig, ViewConfig
from manyviews.data import Dataset
from manyviews.evaluation import MEASURES, RAW_PIXELS_SIDE
from manyviews.intervals import CONFIDENCE, Estimate
from manyviews.results import (
    ACCURACIES,
    CEILING,
    FURTHER,
    REPORTED,
    RUNS,
    TITLES,
    Run,
    cost_table,
    difference,
    final_accuracy,
    ladder_table,
    predictions_of,
)

# Run, run to compare it with, and what changes from the latter to the former.
COMPARISONS = (
    ("resnet34", "baseline", "With a larger network"),
    ("views8", "resnet34", "With more views of each image"),
    ("views8", "baseline", "With both"),
)
KINDS = {
    "fractals": "**synthetic** images (drawn by a program)",
    "tiny-imagenet": "photographs",
    "folder": "images",
}
NOT_RUN = "not run"
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD with momentum"}


def percent(share: float) -> str:
    """A share as percent."""
    return NOT_RUN if pd.isna(share) else f"{100 * share:.1f}"


def accuracy_text(found: Estimate) -> str:
    """An accuracy in percent; ± over seeds, and in brackets ± over test images and the number of seeds."""
    seeds = "" if found.n < 2 else f" ± {50 * (found.seed_high - found.seed_low):.1f}"
    images = "" if np.isnan(found.image_low) else f"± {50 * (found.image_high - found.image_low):.1f}, "
    return f"{100 * found.mean:.1f}{seeds} ({images}n = {found.n})"


def difference_text(found: Estimate) -> str:
    """A difference of shares in percentage points, with both intervals and the number of seeds."""
    parts = [
        f"{kind} {100 * low:+.1f} to {100 * high:+.1f}"
        for kind, low, high in (
            ("seeds", found.seed_low, found.seed_high),
            ("images", found.image_low, found.image_high),
        )
        if not np.isnan(low)
    ]
    return f"{100 * found.mean:+.1f} ({'; '.join([*parts, f'n = {found.n}'])})"


INTERVALS_TEXT = (
    f"After ± the half width of the {CONFIDENCE:.0%} t interval over n seeds; in brackets after ± that of "
    "the bootstrap over the test images alone, which says what other images would change and nothing about "
    "another training. With n = 1 there is only the latter."
)


def any_run(runs: dict[str, list[Run]]) -> Run | None:
    """Some finished run, to read what all share."""
    return next((seeds[0] for seeds in runs.values()), None)


def data_text(run: Run) -> str:
    """One paragraph on the images; says so where they are synthetic."""
    s = run.summary
    kind = KINDS[run.config["data"]["name"]]
    size = run.config["data"]["image_size"]
    return (
        f"Dataset `{run.environment['dataset']}`: {kind} of {size} x {size} pixels. {s['classes']} training "
        f"classes with {s['train_images']:,} training and {s['val_images']:,} validation images; "
        f"{s['ood_classes']} unseen classes with {s['ood_fit_images']:,} images to fit the probes on and "
        f"{s['ood_test_images']:,} to score them. Chance is {100 / s['classes']:.1f} % on the training "
        f"classes and {100 / s['ood_classes']:.1f} % on the unseen ones."
    )


def labels_text(run: Run) -> str:
    """How many labels a class the probes are fitted on, and what follows for comparing accuracies."""
    s = run.summary
    id_labels, ood_labels = s["train_images"] / s["classes"], s["ood_fit_images"] / s["ood_classes"]
    text = (
        f"The probes are fitted on {id_labels:g} labels for each training class and {ood_labels:g} for each "
        "unseen"
    )
    if id_labels == ood_labels and s["classes"] == s["ood_classes"]:
        return f"{text} class."
    return (
        f"{text} class, of {s['classes']} and {s['ood_classes']} classes: so accuracy on unseen classes "
        "compares with that of other runs on unseen classes, not with that on the training classes."
    )


def views_text(config: dict[str, Any]) -> str:
    """How many views of an image a run sees in an epoch, and how they meet in its batches."""
    training = config["training"]
    together = (
        "paired two by two"
        if training["views_per_batch"] == 2
        else f"{training['views_per_batch']} of them together in a batch, with the loss of many views in the "
        f"definition `{training['multi_view_loss']}`"
    )
    return f"{config['n_views']} views of each image per epoch, {together}"


def methods_text(runs: dict[str, list[Run]]) -> str:
    """How the numbers were made, read from the configurations of the runs."""
    run = any_run(runs)
    if run is None:
        return f"No run of this profile is finished: {NOT_RUN}."
    c, t, v = run.config, run.config["training"], run.config["views"]
    lines = [data_text(run), ""]
    for name, seeds in runs.items():
        of = seeds[0].config
        n_passes = of["n_views"] // of["training"]["views_per_batch"]
        lines.append(
            f"- **{TITLES[name]}** (`{name}`): depth {of['depth']}, stem `{of['stem']}`, width "
            f"{of['network']['width']}, {views_text(of)}, in {n_passes} "
            f"{'pass' if n_passes == 1 else 'passes'} over the images; seeds "
            f"{', '.join(str(s.config['seed']) for s in seeds)}."
        )
    lines += [
        "",
        f"NT-Xent loss at temperature {t['temperature']}, for the supervised run cross-entropy; batches of "
        f"{t['batch_size']} images and two views "
        f"of each; {t['epochs']} epochs of {OPTIMIZERS[t['optimizer']]} at a peak learning rate of "
        f"{t['learning_rate']}, weight decay {t['weight_decay']}, after {t['warmup_epochs']} epoch(s) of "
        f"linear warm-up annealed towards 0 by a cosine, moved once per {t['schedule_per']}. The two views "
        f"go through the network {'together' if t['joint_forward'] else 'one after the other'}; the "
        f"projection head has {'' if c['network']['projection_norm'] else 'no '}BatchNorm.",
        "",
        f"Views: crop of {v['crop_scale'][0]:g} to {v['crop_scale'][1]:g} of the area; flip "
        f"{v['flip_p']:g}; colour jitter ({v['brightness']:g}, {v['contrast']:g}, {v['saturation']:g}, "
        f"{v['hue']:g}) with probability {v['jitter_p']:g}; grayscale {v['grayscale_p']:g}; blur "
        f"{v['blur_p']:g}.",
        "",
        f"Probes, on the backbone's {c['network']['feature_dim']}-dimensional output, without augmentation: "
        f"{c['evaluation']['neighbours']} nearest neighbours (Euclidean, uniform votes), and logistic "
        f"regression (L2, C = {c['evaluation']['linear_c']:g}), solved to its optimum, where the report's "
        "solver stops at a looser tolerance. All numbers are of the last epoch.",
        "",
        departures_text(run),
    ]
    return "\n".join(lines)


def departures_text(run: Run) -> str:
    """In what a run departs from the report's recipe, which is what the configuration's defaults are."""
    sections = (NetworkConfig, ViewConfig, TrainingConfig)
    names = ("network", "views", "training")
    parts = [
        f"`{name}.{key}` {value} ({default})"
        for name, section in zip(names, sections, strict=True)
        for key, default in section().model_dump(mode="json").items()
        if (value := run.config[name].get(key, default)) != default
    ]
    return (
        f"Departures from the report's recipe (its value): {', '.join(parts)}."
        if parts
        else "Network, views and training follow the report's recipe."
    )


def table(rows: list[dict[str, str]]) -> str:
    """Rows of text as a Markdown table; a cell that a row lacks is empty."""
    return pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True)


def measured(runs: dict[str, list[Run]], name: str, measure: str) -> str:
    """The final accuracy of a run as text, also where it was not run."""
    return accuracy_text(final_accuracy(runs[name], measure)) if name in runs else NOT_RUN


def accuracy_markdown(runs: dict[str, list[Run]], floor: dict[str, float]) -> str:
    """The four metrics of each run, reported above measured, and those of ceiling and floors.

    Args:
        runs: see results.load_runs.
        floor: what raw pixels reach, by measure; empty where that was not measured.
    """
    rows = []
    for name, title in TITLES.items():
        if name in RUNS:
            reported = REPORTED.get(name, {})
            cells = {
                label: percent(reported[metric]) if metric in reported else "no number"
                for metric, label in ACCURACIES.items()
            }
            rows.append({"Run": title, "Accuracy (%)": "reported"} | cells)
        cells = {label: measured(runs, name, metric) for metric, label in ACCURACIES.items()}
        rows.append({"Run": "" if name in RUNS else title, "Accuracy (%)": "measured"} | cells)
    for title, of_floor in {"Raw pixels": floor, **initial_accuracies(runs)}.items():
        cells = {label: percent(of_floor.get(metric, np.nan)) for metric, label in ACCURACIES.items()}
        rows.append({"Run": title, "Accuracy (%)": "measured"} | cells)
    run = any_run(runs)
    if run is None:
        return table(rows)
    kind = "synthetic fractals" if run.summary["synthetic"] else run.environment["dataset"]
    return (
        f"{table(rows)}\n\n{INTERVALS_TEXT} Reported: 64 x 64 pixel images of 200 ImageNet classes. "
        f"Measured: {kind}, {run.summary['classes']} classes. Levels on different data and schedules cannot "
        f"be compared. {TITLES[CEILING]} is trained with the labels, on the same views for as many steps as "
        "the baseline: a ceiling, not a competitor."
    )


def initial_accuracies(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """What each network's random weights reach, by measure, as means over the seeds."""
    networks = {}
    for seeds in runs.values():
        c = seeds[0].config
        title = f"Random weights: depth {c['depth']}, stem {c['stem']}"
        means = {key: np.mean([run.summary["initial"][key] for run in seeds]) for key in ACCURACIES}
        networks.setdefault(title, means)
    return networks


def ood_markdown(runs: dict[str, list[Run]]) -> str:
    """Accuracies on training and unseen classes, measured so that they can be compared."""
    rows = [
        {"Run": TITLES[name]} | {label: measured(runs, name, metric) for metric, label in FURTHER.items()}
        for name in TITLES
    ]
    run = any_run(runs)
    if run is None:
        return table(rows)
    folds, draws = (run.config["evaluation"][key] for key in ("ood_folds", "few_label_draws"))
    n, s = run.summary["few_labels_per_class"], run.summary
    labels = (
        f"fitted again on {n} labels a class, as many as the report's OOD probes have, as the mean over "
        f"{draws} draws of them"
        if n < s["train_images"] // s["classes"]
        else f"fitted on all {n} labels a class, no more than the report's OOD probes have"
    )
    same = s["classes"] == s["ood_classes"]
    return (
        f"{table(rows)}\n\nAccuracy in percent; intervals as above. Unseen classes: every image scored once, "
        f"in {folds} stratified folds, each fitted on the others. Training classes: the probes {labels}. "
        + (
            f"Both are of {s['classes']} classes."
            if same
            else f"{s['classes']} training and {s['ood_classes']} unseen classes: chance differs."
        )
    )


def ladder_markdown(runs: dict[str, list[Run]], task: str) -> str:
    """Accuracies under other choices of the probe; see evaluation.ladder for the task and the rungs."""
    rungs = ladder_table(runs, task)
    if rungs.empty:
        return f"The ladder of probes: {NOT_RUN}."
    cells = 100 * rungs.rename_axis("Probe")
    kind = "training" if task == "id" else "unseen"
    stuck = [
        f"`{name}` seed {run.seed}"
        for name, seeds in runs.items()
        for run in seeds
        if run.ladder is not None and (~run.ladder["converged"].dropna().astype(bool)).any()
    ]
    return (
        f"{cells.to_markdown(floatfmt='.1f')}\n\nAccuracy on the {kind} classes in percent, "
        "means over seeds. C is chosen on a held-out fifth of the fitted images, never on scored ones. "
        f"{rank_text(rungs)} "
        + (
            f"Some linear fits did not converge in: {', '.join(stuck)}."
            if stuck
            else "All linear fits converged."
        )
    )


def rank_text(rungs: pd.DataFrame) -> str:
    """In how many rungs the report's last run is ahead of its first."""
    first, last = RUNS["baseline"], RUNS["views8"]
    if not {first, last} <= set(rungs):
        return ""
    ahead = int((rungs[last] > rungs[first]).sum())
    return f"{last} is ahead of {first} in {ahead} of {len(rungs)} rungs."


def run_markdown(run: Run) -> str:
    """The four final accuracies of one run beside the reported ones."""
    rows = [
        {
            "Accuracy (%)": label,
            "Initial weights": percent(run.evaluated.iloc[0][metric]),
            f"After {run.summary['epoch']} epochs": percent(run.summary[metric]),
            "Reported": percent(REPORTED[run.name][metric]) if run.name in REPORTED else "no number",
        }
        for metric, label in ACCURACIES.items()
    ]
    notes = f"{labels_text(run)} {convergence_note({run.name: [run]})}"
    return f"{data_text(run)}\n\n{table(rows)}\n\n{notes}"


def dataset_markdown(dataset: Dataset) -> str:
    """Sizes of the three splits."""
    splits = {"train": "training", "val": "validation (ID)", "ood": "unseen classes (OOD)"}
    rows = [
        {
            "Split": title,
            "Images": f"{len(split.labels):,}",
            "Classes": str(split.n_classes),
            "Pixels": " x ".join(map(str, split.images.shape[1:3])),
        }
        for split, title in ((getattr(dataset, name), title) for name, title in splits.items())
    ]
    kind = "**synthetic**: drawn by a program, no photographs" if dataset.synthetic else "photographs"
    return f"`{dataset.name}`, {kind}.\n\n{table(rows)}"


def differences(
    runs: dict[str, list[Run]], a: str, b: str, measures: Iterable[str]
) -> dict[str, Estimate | None]:
    """By how much run a exceeds run b in each measure; see results.difference."""
    of_a, of_b = (predictions_of(name, runs, None) for name in (a, b))
    return {measure: difference(of_a, of_b, measure) for measure in measures}


def comparison_markdown(runs: dict[str, list[Run]]) -> str:
    """What the runs differ by in each metric, and what the difference cost."""
    costs = cost_table(runs)
    rows, notes = [], []
    for a, b, question in COMPARISONS:
        title = f"{question}: {RUNS[a]} minus {RUNS[b]}"
        found = differences(runs, a, b, ACCURACIES)
        if None in found.values():
            missing = NOT_RUN if a not in runs or b not in runs else "no seed in common"
            rows.append({"Difference (points)": title} | dict.fromkeys(ACCURACIES.values(), missing))
            continue
        cells = {label: difference_text(found[metric]) for metric, label in ACCURACIES.items()}
        rows.append({"Difference (points)": title} | cells)
        ratio = costs.loc[a] / costs.loc[b]
        notes.append(
            f"{question}, {RUNS[a]} took {ratio['steps']:.1f} times the optimiser steps and "
            f"{ratio['multiply_adds']:.1f} times the multiply-adds of {RUNS[b]}."
        )
    return (
        f"{table(rows)}\n\nDifferences are taken seed by seed and image by image. In brackets, "
        f"{CONFIDENCE:.0%} intervals: over seeds (t) and over test images (paired bootstrap). "
        f"{' '.join(notes)}"
    )


def comparison_table(runs: dict[str, list[Run]]) -> pd.DataFrame:
    """The same as numbers, to be stored beside the report; see also claims.verdicts_table."""
    rows = []
    for a, b, _ in COMPARISONS:
        for measure, found in differences(runs, a, b, MEASURES).items():
            if found:
                rows.append({"run": a, "against": b, "measure": measure, **found.as_dict()})
    return pd.DataFrame(rows, columns=["run", "against", "measure", *Estimate.__dataclass_fields__])


def plateau_markdown(runs: dict[str, list[Run]], claims: ClaimsConfig, names: Iterable[str] = TITLES) -> str:
    """How much each accuracy still moved in the last part of the training of the named runs."""
    rows = []
    for name in names:
        title = TITLES.get(name, name)
        if name not in runs:
            rows.append({"Run": title, "Accuracy (%)": NOT_RUN})
            continue
        curve = pd.concat([run.evaluated for run in runs[name]]).groupby("epoch")[list(ACCURACIES)].mean()
        last = curve.index[-1]
        before = window_start(runs[name][0], claims.plateau_window)
        for metric, label in ACCURACIES.items():
            first, earlier, final = (curve.loc[epoch, metric] for epoch in (0, before, last))
            rows.append(
                {
                    "Run": f"{title} (n = {len(runs[name])})" if metric == next(iter(ACCURACIES)) else "",
                    "Accuracy (%)": label,
                    "initial weights": percent(first),
                    f"after epoch {before}": percent(earlier),
                    f"after epoch {last}, the last": percent(final),
                    "last change (points)": f"{100 * (final - earlier):+.1f}",
                }
            )
    rates = [rates_text(runs[name]) for name in names if name in runs]
    return (
        f"{table(rows)}\n\nMeans over n seeds. A curve counts as level if its interval over seeds stays "
        f"within {100 * claims.plateau_tolerance:.1f} points over the last {claims.plateau_window:.0%} of "
        f"its epochs, counted from the last measurement before them. {' '.join(dict.fromkeys(rates))}"
    )


def rates_text(seeds: list[Run]) -> str:
    """How far the learning rate had fallen in the last epoch, and what that means for a flat curve."""
    rates = seeds[0].metrics["learning_rate"].dropna()
    share = rates.iloc[-1] / rates.max()
    return (
        f"The last learning rate was {share:.0%} of the peak, so a flat end alone does not show "
        "that the data are used up."
    )


def reading(run: Run, window: float) -> str:
    """One sentence on each accuracy of a run: from its first to its last value, and its last part."""
    curve = run.evaluated.set_index("epoch")
    last, before = curve.index[-1], window_start(run, window)
    sentences = []
    for metric, label in ACCURACIES.items():
        first, earlier, final = (curve.loc[epoch, metric] for epoch in (0, before, last))
        verb = "rose" if final > first else "fell" if final < first else "stayed"
        sentences.append(
            f"{label} {verb} from {percent(first)} % at the initial weights to {percent(final)} %, of which "
            f"{100 * (final - earlier):+.1f} points came after epoch {before}"
        )
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]} (n = 1). {rates_text([run])}"


def floor_text(floor: dict[str, float], runs: dict[str, list[Run]], image_size: int) -> str:
    """What raw pixels reach without any training, and which runs end below that.

    Args:
        floor: by measure; empty where it was not measured.
        runs: see results.load_runs.
        image_size: pixels.
    """
    if not floor:
        return f"Raw pixels: {NOT_RUN}."
    shares = "; ".join(f"{label} {percent(floor[metric])} %" for metric, label in ACCURACIES.items())
    side = RAW_PIXELS_SIDE
    averaged = f", averaged to {side} x {side}" if image_size > side else ""
    text = f"Raw pixels{averaged}, without any training: {shares}."
    if not runs:
        return text
    below = [
        f"{TITLES[name]} ({label})"
        for name, seeds in runs.items()
        for metric, label in ACCURACIES.items()
        if np.mean([run.summary[metric] for run in seeds]) < floor[metric]
    ]
    return f"{text} Below that end, on average: {', '.join(below) if below else 'no runs'}."


def limits_markdown(runs: dict[str, list[Run]], failures: list[str]) -> str:
    """What these runs cannot tell, as far as the results themselves say so.

    Args:
        runs, failures: see results.load_runs and load_failures.
    """
    run = any_run(runs)
    if run is None:
        return "\n".join(f"- {line}" for line in (f"{NOT_RUN}.", *failures))
    seeds = min(len(of_run) for of_run in runs.values())
    lines = [labels_text(run), convergence_note(runs)]
    if seeds == 1:
        lines.append("n = 1: some run has one seed, so differences may be chance.")
    if run.summary["synthetic"]:
        lines.append("The images are synthetic: nothing here is evidence about photographs.")
    return "\n".join(f"- {line}" for line in (*lines, *failures))


def convergence_note(runs: dict[str, list[Run]]) -> str:
    """Names the runs whose final linear probes did not converge."""
    stuck = [
        f"`{name}` seed {run.config['seed']}"
        for name, seeds in runs.items()
        for run in seeds
        if not run.summary["linear_converged"]
    ]
    return (
        f"The final linear probe did not converge in: {', '.join(stuck)}."
        if stuck
        else ("The final linear probes of all finished runs converged.")
    )


def cost_markdown(runs: dict[str, list[Run]]) -> str:
    """What each run cost, a row for each of the report's runs."""
    costs = cost_table(runs)
    rows = []
    for name, title in TITLES.items():
        if name not in runs:
            rows.append({"Run": title, "Optimiser steps": NOT_RUN})
            continue
        c = costs.loc[name]
        rows.append(
            {
                "Run": title,
                "Parameters (M)": f"{c['parameters'] / 1e6:.2f}",
                "Optimiser steps": f"{c['steps']:,.0f}",
                "Views forwarded": f"{c['images_forwarded']:,.0f}",
                "Multiply-adds per view (M)": f"{c['multiply_adds_per_view'] / 1e6:,.1f}",
                "Multiply-adds in training (G)": f"{c['multiply_adds'] / 1e9:,.0f}",
                "Wall time (s)": f"{c['wall_time_s']:,.0f}",
                "CPU time (s)": f"{c['cpu_time_s']:,.0f}",
            }
        )
    return table(rows) + (
        "\n\nPer run; times are means over seeds and include the probes along the way, not the final "
        "evaluation. A training step counts three times its forward multiply-adds (forward, gradient of "
        "activations, gradient of weights), in convolutions and matrix products."
    )


def environment_markdown(runs: dict[str, list[Run]]) -> str:
    """Code, libraries and machine; several values where the runs differ."""
    environments = [run.environment for seeds in runs.values() for run in seeds]
    skipped = {
        "seed",
        "class_names",
        "final_evaluation_time_s",
        "ood_class_names",
        "wall_time_s",
        "cpu_time_s",
        "images_forwarded",
        "multiply_adds",
    }
    keys = [key for key in (environments[0] if environments else {}) if key not in skipped]
    rows = [
        {"Item": key, "Value": ", ".join(dict.fromkeys(str(e.get(key)) for e in environments))}
        for key in keys
    ]
    return table(rows) if rows else f"{NOT_RUN}."

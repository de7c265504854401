"""The report's first section: its conclusion, in sentences that rules write from the numbers.

Each rule takes the facts and returns its sentences, none where a number is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlmrec.durations import format_duration
from rlmrec.errors import RlmrecError
from rlmrec.evaluation.compare import SeededComparison, compare_pairs, limit_reached
from rlmrec.evaluation.groups import ITEM_GROUPS
from rlmrec.evaluation.power import next_steps, nothing_significant, power_sentences
from rlmrec.evaluation.significance import LEAST_SEEDS
from rlmrec.experiments.differences import in_words
from rlmrec.report import accuracy
from rlmrec.report.accuracy import Change
from rlmrec.report.blocks import Block, Conclusion, Options, Section, Sentence, anchor, p_value, signed
from rlmrec.report.collect import Group, Inputs, options_apart
from rlmrec.report.experiments import POPULARITY
from rlmrec.report.hidden import ANCHOR, KnownByText, known_by_text
from rlmrec.report.tables import ResultTable, Value

METRIC = "recall@20"  # the metric that runs are chosen by on validation
NAME = "Recall@20"
SHOWN_RUNS = 12
SLOWER = 1.2  # a smaller ratio of times is noise of the machine


@dataclass(frozen=True)
class RunFacts:
    """What the rules know about the runs of a row.

    Args:
        name: of the row.
        recall: mean Recall@20 on the test split.
        seeds: number of seeds.
        seconds: of training or fitting; 0 if not known.
        coverage: share of the catalogue in the lists of 20; None if not known.
        trained: whether it was trained in epochs, by initial embeddings and batches of its seed. The seed of a closed
            form draws the validation users by which its options are chosen.
        text: whether it reads texts.
    """

    name: str
    recall: float
    seeds: int = 1
    seconds: float = 0.0
    coverage: float | None = None
    trained: bool = True
    text: bool = False


@dataclass(frozen=True)
class Facts:
    """What the rules write their sentences from.

    Args:
        runs: the best first.
        lead: the best run compared with the second; None if that is impossible.
        new: the best run that is compared with a base, the same recommender without text; None if there is none.
        base: this base.
        change: their comparison.
        apart: options in which the two differ apart from text, in words.
        lead_apart: those in which the best two differ, where they have the same backbone.
        users: change for users of little to much activity: (training interactions, change).
        items: change for items by popularity: (head, middle or tail; change).
        cold: what a text tells of users and of items without a history, where it was measured.
        measure: the command that measures it; "" where nothing has a text.
        limit: which runs the limit of epochs ended, in a sentence; "" for none.
    """

    runs: Sequence[RunFacts]
    lead: SeededComparison | None = None
    new: RunFacts | None = None
    base: RunFacts | None = None
    change: SeededComparison | None = None
    apart: str = ""
    lead_apart: str = ""
    users: Sequence[tuple[str, Change]] = ()
    items: Sequence[tuple[str, Change]] = ()
    cold: Sequence[KnownByText] = ()
    measure: str = ""
    limit: str = ""


def winner(facts: Facts) -> list[Sentence]:
    """Name the best run, by how much it leads, and whether that is significant."""
    best, *others = facts.runs
    if not others:
        text = f"There is one run, {best.name}: its {NAME} is {best.recall:.4f}. Train another one to compare it with."
        return [Sentence("Winner", text, "t-results")]
    text = f"{best.name} has the best {NAME} of {len(facts.runs)} runs, {best.recall:.4f}."
    if best.name == POPULARITY:
        text += " No model is better than a list of what is popular."
    second = others[0]
    told = facts.base is not None and (best, second) == (facts.new, facts.base)  # by the next rule
    if facts.lead is not None and second.recall > 0 and not told:
        users = facts.lead.users
        lead = f" It leads {second.name} by {100 * (best.recall / second.recall - 1):.1f} %,"
        p = _p(users.p_t)
        text += f"{lead} which is {'significant' if users.significant else 'not significant'} ({p})."
        if not users.significant:
            text += " The two may be equally good."
        text += _differ(facts.lead_apart, second, best)
    return [Sentence("Winner", text, "t-results")]


def effect(facts: Facts) -> list[Sentence]:
    """Tell what the run with text changes against its base, and if nothing is significant, what would be."""
    if facts.change is None or facts.new is None or facts.base is None:
        return []
    users = facts.change.users
    size = f"{abs(100 * users.relative):.1f} %" if users.base else f"{abs(users.difference):.2g}"
    p = f"{_p(users.p_holm)} after Holm's correction"
    if users.significant:
        verb = "gains" if users.difference > 0 else "loses"
        text = (
            f"{facts.new.name} {verb} {size} of {NAME} against {facts.base.name}. This is significant ({p})."
            + _differ(facts.apart, facts.base, facts.new)
        )
        return [Sentence("Change", text, "t-significance")]
    sign = "−" if users.difference < 0 else "+"
    text = f"{facts.new.name} changes {NAME} of {facts.base.name} by {sign}{size}, which may be chance ({p})."
    text += _differ(facts.apart, facts.base, facts.new)
    if nothing_significant([facts.change]):
        text = " ".join([text, *power_sentences(facts.change, NAME)])
    return [Sentence("Change", text, "t-significance")]


def who_gains(facts: Facts) -> list[Sentence]:
    """Tell which users and which items gain or lose: those whose 95 % interval leaves out zero."""
    found = []
    for topic, changes, what, place in (
        ("Users", facts.users, "training interactions", "activity"),
        ("Items", facts.items, "popularity", "popularity"),
    ):
        if len(changes) < 2:
            continue
        gaining = [pair for pair in changes if pair[1].low > 0]
        losing = [pair for pair in changes if pair[1].high < 0]
        parts = []
        for verb, mine in (("gain", gaining), ("lose", losing)):
            if len(mine) == len(changes):
                parts.append(f"All {topic.lower()} {verb}, by {what}: {_listed(mine)}.")
            elif mine:
                which = "These" if parts else f"By {what}, these {topic.lower()}"
                parts.append(f"{which} {verb}: {_listed(mine)}.")
        if not parts:
            parts = [f"No group of {topic.lower()}, by {what}, gains or loses clearly."]
        elif len(gaining) + len(losing) < len(changes):
            parts.append("The others do not change clearly.")
        base = "" if facts.base is None else facts.base.name
        found.append(Sentence(topic, " ".join(parts), anchor(place, base)))
    return found


def who_is_known_by_text(facts: Facts) -> list[Sentence]:
    """Tell what users and items get who have a text and no history; if that is not known, which command measures it."""
    if not facts.cold:
        text = "What texts do for users and items without a history was not measured here. To measure it: "
        text += facts.measure
        return [Sentence("New ones", text)] if facts.measure else []
    found = []
    for one in facts.cold:
        if one.significant is None:
            tested = "The difference was not tested."
        elif one.significant:
            tested = f"This {'gain' if one.value > one.base_value else 'loss'} is significant."
        else:
            tested = "The difference may be chance."
        text = (
            f"For {one.kind} known by their text alone, {NAME} is {one.value:.4f} with {one.name} and "
            f"{one.base_value:.4f} with {one.base}. {tested}"
        )
        found.append(Sentence(f"New {one.kind}", text, ANCHOR))
    return found


def cost(facts: Facts) -> list[Sentence]:
    """Tell what the winner, and the run with text, cost: seconds, and the share of the catalogue that is shown."""
    new, base = (facts.new, facts.base) if facts.new and facts.base else (facts.runs[0], None)
    if base is None and len(facts.runs) > 1:
        base = facts.runs[1]
    found = []
    if new.seconds:
        text = f"{new.name} takes {format_duration(new.seconds)} to train"
        if base is not None and base.seconds:
            ratio = new.seconds / base.seconds
            if ratio > SLOWER:
                text += f", {ratio:.1f} times as long as {base.name} ({format_duration(base.seconds)})"
            else:
                text += f", {base.name} {format_duration(base.seconds)}"
        found.append(Sentence("Cost", f"{text}.", "t-costs"))
    if new.coverage is not None:
        text = f"The lists of {new.name} show {100 * new.coverage:.0f} % of the catalogue"
        if base is not None and base.coverage is not None:
            text += f", those of {base.name} {100 * base.coverage:.0f} %"
        found.append(Sentence("Coverage", f"{text}.", "t-beyond"))
    return found


def trained_out(facts: Facts) -> list[Sentence]:
    """Tell which runs may not be trained out, as the limit of epochs ended them."""
    return [Sentence("Training", f"{facts.limit}.", "t-costs")] if facts.limit else []


def what_next(facts: Facts) -> list[Sentence]:
    """Tell what to do next: take the cheaper run, more seeds, more text, other options."""
    best, steps = facts.runs[0], []
    new, change = facts.new, facts.change
    if new is not None and best.name != new.name and 0 < best.seconds < new.seconds:
        steps.append(
            f"Take {best.name}: its {NAME} is higher than that of {new.name}, and it takes "
            f"{format_duration(best.seconds)} instead of {format_duration(new.seconds)}."
        )
    trained = any(one.trained for one in (new, facts.base) if one is not None)
    if change is not None and nothing_significant([change]):
        steps += next_steps(change, trained=trained)
    elif change is not None and change.seeds is None and trained:
        steps.append(
            f"More seeds: train both with at least {LEAST_SEEDS}, so that chance in training is part of the test."
        )
    if not any(one.text for one in facts.runs):
        steps.append("No run reads texts: rlmrec encode makes text vectors, then train one with --alignment.")
    if not steps:
        steps = [
            f"Look at lists of {best.name} with rlmrec serve, and give it to your users with rlmrec publish."
        ]
    return [Sentence("Next", step) for step in steps]


RULES: tuple[Callable[[Facts], list[Sentence]], ...] = (
    winner,
    effect,
    who_gains,
    who_is_known_by_text,
    cost,
    trained_out,
    what_next,
)


def _differ(options: str, first: RunFacts, second: RunFacts) -> str:
    """Return a sentence about the options in which two runs differ; "" if there are none."""
    return f" Options that differ ({first.name} | {second.name}): {options}." if options else ""


def _size(change: Change) -> str:
    return (
        f"{signed(100 * change.difference / change.base)} %"
        if change.base
        else signed(change.difference, ".2g")
    )


def _listed(changes: Sequence[tuple[str, Change]]) -> str:
    return ", ".join(f"{label} ({_size(change)})" for label, change in changes)


def _p(value: float) -> str:
    return f"p = {p_value(value)}" if value >= 0.001 else "p < 0.001"


def conclusion(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the section: what all rules say, and the runs in a table, the best first; None if nothing was tested."""
    groups = [group for group in inputs.groups if group.mean(METRIC) is not None]
    if not groups:
        return None
    groups.sort(key=lambda group: -(group.mean(METRIC) or 0.0))
    comparisons = accuracy.tests_against_base(inputs, groups)
    facts = _facts(inputs, groups, {name: found[METRIC] for name, found in comparisons.items()})
    blocks: list[Block] = [Conclusion([sentence for rule in RULES for sentence in rule(facts)])]
    rows: list[list[Value]] = []
    for group, run in zip(groups[:SHOWN_RUNS], facts.runs, strict=False):
        found = comparisons.get(group.name, {}).get(METRIC)
        change = "–"
        if found is not None and found.users.base:
            change = f"{100 * found.users.relative:+.1f} %{'*' * found.users.significant}"
        rows.append([
            run.name, f"{run.recall:.4f}", change, group.mean("ndcg@20"),
            format_duration(run.seconds) if run.seconds else None,
            None if run.coverage is None else f"{100 * run.coverage:.0f} %",
        ])  # fmt: skip
    left = len(groups) - len(rows)
    note = "Test split, the best first. * p < 0.05, paired t-test over users with Holm's correction over the results."
    blocks.append(
        ResultTable(
            ["run", NAME, "to its base", "NDCG@20", "training", "catalogue shown"],
            rows,
            "At a glance",
            note + f" {left} more below." * bool(left) + accuracy.differences_from_bases(inputs, groups),
            formats={"NDCG@20": ".4f"},
        )
    )
    return Section("conclusion", "Conclusion", blocks)


def _facts(inputs: Inputs, groups: Sequence[Group], changes: dict[str, SeededComparison]) -> Facts:
    """Collect the facts of groups that are sorted from the best to the worst."""
    runs = [_run(group) for group in groups]
    lead = None
    if len(groups) > 1:
        try:
            pair = accuracy.by_seed(groups[0]), accuracy.by_seed(groups[1])
            lead = compare_pairs({"best": pair}, [METRIC])["best"][METRIC]
        except RlmrecError as error:
            inputs.leave_out(str(error))
    cold = known_by_text(inputs, METRIC)
    measure = ""
    if any(run.text for run in runs):
        measure = shlex.join([
            "rlmrec", "experiment", "hidden", "-w", str(inputs.workspace.path),
            "--only", "backbone=popularity,graph-filter",
        ])  # fmt: skip
    limit = limit_reached(groups)
    lead_apart = ""
    if len(groups) > 1 and groups[0].first.backbone == groups[1].first.backbone:
        lead_apart = in_words(options_apart([groups[1], groups[0]]))
    number = next((number for number, group in enumerate(groups) if group.name in changes), None)
    if number is None:
        return Facts(runs, lead, lead_apart=lead_apart, cold=cold, measure=measure, limit=limit)
    new = groups[number]
    base = inputs.base_of(new)
    assert base is not None  # what it was compared with
    users, items = [], []
    if inputs.dataset is not None:
        labels, found = accuracy.changes_by_activity(inputs.dataset, base, [new])
        users = [pair for _, _, mine in found for pair in zip(labels, mine, strict=True)]
        by_popularity = accuracy.changes_by_popularity(inputs, inputs.dataset, base, [new])
        items = [pair for _, _, mine in by_popularity for pair in zip(ITEM_GROUPS, mine, strict=True)]
    apart = in_words(options_apart([base, new]))
    return Facts(
        runs,
        lead,
        runs[number],
        _run(base),
        changes[new.name],
        apart,
        lead_apart,
        users,
        items,
        cold,
        measure,
        limit,
    )


def _run(group: Group) -> RunFacts:
    return RunFacts(
        group.name,
        group.mean(METRIC) or 0.0,
        len(group.runs),
        group.seconds,
        group.mean("coverage@20"),
        bool(group.first.metrics.get("epochs")),
        group.first.option("data", "texts") is not None,
    )

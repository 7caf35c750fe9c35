"""`keyanon plan`: what a run would take, measured on a sample of its pictures."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.anonymize import anonymize, settings_of, with_progress
from jobs.commands.options import Json, Verbose, output_of, with_options_of
from jobs.commands.printing import facts, format_bytes, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.run.plan import Estimate, Plan

_PLAN = "Plan"


@with_options_of(anonymize, without=("strict", "limit", "max_failure_rate"))
def plan(
    context: typer.Context,
    sample: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pictures to take through the stages.", rich_help_panel=_PLAN)
    ] = 32,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0, help="Of one machine of the cluster.", show_default="no cost", rich_help_panel=_PLAN
        ),
    ] = None,
    price_per_gpu_machine_hour: Annotated[
        float | None,
        typer.Option(
            "--price-per-gpu-machine-hour",
            metavar="P",
            min=0,
            help="Of one machine with GPUs.",
            show_default="as the others",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    price_per_gb_month: Annotated[
        float | None,
        typer.Option(metavar="P", min=0, help="Of a gigabyte of OUT.", show_default="no cost", rich_help_panel=_PLAN),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what `keyanon anonymize` with the same options would take: faces, hours, bytes, money. Writes nothing.

    Input, settings, places, cluster and prior are looked at; a random sample of pictures goes through the real stages, and
    what comes out is measured and dropped. Each figure has an interval of 95 %. Of clips the sample is of their pieces.
    """
    from jobs.run.plan import Prices, plan_run

    prices = Prices(price_per_hour, price_per_gb_month, price_per_gpu_machine_hour)
    run, given = partial(plan_run, settings_of(context), sample, prices), context.params
    found = with_progress(run, given["progress_seconds"], quiet=given["quiet"])
    output_of(context).result(
        found.to_dict(),
        table("looked at", ("what", "result"), found.checks),
        facts("plan", _summary(found)),
        table("sample", ("status or reason", f"{found.unit}s"), [*found.statuses.items(), *found.reasons.items()]),
    )


def _summary(found: "Plan") -> dict[str, object]:
    one_unit = {"image": "an image", "piece": "a piece"}[found.unit]
    costs = {"cost of computing": found.cost_of_computing, "cost of storage a month": found.cost_of_a_month}
    return {
        "rows": found.rows if found.rows == found.rows_left else f"{found.rows}, {found.rows_left} of them to be done",
        "sample": f"{found.sampled} {found.unit}s",
        f"faces {one_unit}": _shown(found.faces_per_image, "{:.2f}".format),
        "anonymized": _shown(found.anonymized_share, "{:.0%}".format),
        **{
            f"seconds to {stage} {one_unit}": _shown(one, "{:.2f}".format)
            for stage, one in found.seconds_per_image.items()
        },
        "time": _shown(found.hours, _time)
        + f", with {found.actors} anonymizing process(es) on {found.machines} machine(s), {found.device}",
        **({} if found.gpu_hours is None else {"GPU-hours": _shown(found.gpu_hours, "{:.2f}".format)}),
        "bytes of PHOTOS": format_bytes(found.source_bytes),
        f"bytes of {found.unit}s": _shown(found.picture_bytes, _bytes),
        "bytes of sidecars": _shown(found.sidecar_bytes, _bytes),
        "bytes in the keystore": _shown(found.keystore_bytes, _bytes),
        **{name: _shown(one, "{:.2f}".format) for name, one in costs.items() if one is not None},
    }


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"


def _bytes(count: float) -> str:
    return format_bytes(round(count))


def _shown(figure: "Estimate", form: "Callable[[float], str]") -> str:
    if figure.low is None or figure.high is None:
        return f"{form(figure.value)} (of one row: nobody knows how uncertain)"
    return f"{form(figure.value)} ({form(figure.low)} to {form(figure.high)})"

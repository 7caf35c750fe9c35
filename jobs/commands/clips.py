"""`keyanon clips`: the clips of an output, who is seen in one and when, and which pieces to ask for. It needs no keystore."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.options import EndpointUrl, Json, OutputPlace, Verbose, output_of, store_of
from jobs.commands.printing import facts, table

if TYPE_CHECKING:
    from jobs.output.clip_view import ClipPiece, ClipView

_TIME = re.compile(r"(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d+)?)")


def clips(
    context: typer.Context,
    out: OutputPlace,
    clip: Annotated[str | None, typer.Argument(metavar="CLIP", help="Name of one clip.", show_default="all")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Pieces of a time: 75, 1:15 or 0:01:15.5.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="The same, its end.")] = None,
    track: Annotated[
        list[int] | None,
        typer.Option(
            "--track", metavar="N", help="Of --ids, the records of one person alone (repeats).", show_default="all"
        ),
    ] = None,
    ids: Annotated[
        bool, typer.Option("--ids", help="Print their ids alone, for `keyanon request KEYSTORE --images -`.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a page to review the clip by.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the clips of a run's output; of one its tracks and pieces, those of a time with --from and --to.

    With --ids what to ask a keystore for: everybody in these pieces, or with --track one person alone.
    """
    from jobs.output.clip_view import clip_view, clip_views, page_of

    store, output = store_of(out, endpoint_url), output_of(context)
    if clip is None:
        if ids or page is not None or begin is not None or end is not None or track:
            raise typer.BadParameter(
                "--from, --to, --track, --ids and --page are of one clip; name it", param_hint="CLIP"
            )
        views = clip_views(store)
        rows = [(view.name, len(view.pieces), len(view.tracks), _state(view)) for view in views]
        output.result(
            {"kind": "clips", "clips": [_told(view, list(view.pieces)) for view in views]},
            table("clips", ("clip", "pieces", "tracks", "state"), rows),
        )
        return
    if track and not ids:
        raise typer.BadParameter("it says whose records --ids prints; give that too", param_hint="--track")
    view = clip_view(store, clip)
    pieces = view.between(_seconds(begin, "--from") or 0.0, _seconds(end, "--to"))
    if page is not None:
        page.write_text(page_of(store, view), encoding="utf-8")
    if ids:
        asked = view.ids_of(track, pieces) if track else [one.row.image_id for one in pieces if one.row.record_ids]
        typer.echo("\n".join(asked))
        return
    tracks = [(one.track, f"{one.begin:.2f}", f"{one.end:.2f}", one.frames, one.filled) for one in view.tracks]
    shown = [(p.row.image_id, f"{p.begin:.2f}", p.row.status, p.row.faces, p.row.reason or None) for p in pieces]
    output.result(
        {"kind": "clip", **_told(view, pieces)},
        facts(clip, {"state": _state(view), "page": None if page is None else str(page)}),
        table("tracks", ("track", "from s", "to s", "frames", "filled in"), tracks),
        table("pieces", ("piece", "begins s", "status", "faces", "reason"), shown),
    )


def _told(view: "ClipView", pieces: "list[ClipPiece]") -> dict[str, Any]:
    return {
        "clip": view.name,
        "joined": view.is_joined,
        "tracks": [vars(track) for track in view.tracks],
        "pieces": [
            {
                "image_id": one.row.image_id,
                "begin": one.begin,
                "status": one.row.status,
                "reason": one.row.reason,
                "tracks": [record.track for record in one.row.track_records],
            }
            for one in pieces
        ],
    }


def _state(view: "ClipView") -> str:
    return "joined" if view.is_joined else f"not joined: {len(view.missing)} of its pieces were not published"


def _seconds(text: str | None, option: str) -> float | None:
    """Seconds of `75`, `1:15` or `0:01:15.5`. Raises typer.BadParameter."""
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time; write seconds, M:S or H:M:S", param_hint=option)
    parts = [float(part) for part in match.groups() if part is not None]
    return sum(part * 60.0**power for power, part in enumerate(reversed(parts)))

"""The command `spikeleak audit`: its options and their help. Brings nothing heavy until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contract.errors import ConfigurationError


def audit(
    *,
    model: Annotated[str, typer.Option(metavar="FILE.py:FACTORY", help="Callable that makes the nn.Module.")],
    weights: Annotated[Path, typer.Option(metavar="W.safetensors", help="Parameters that the update started from.")],
    input_shape: Annotated[str, typer.Option(metavar="1,28,28", help="Shape of one sample.")],
    encoding: Annotated[str, typer.Option(metavar="direct|rate|latency|events", help="How samples become frames.")],
    steps: Annotated[int, typer.Option(help="Time steps T.")],
    out: Annotated[Path, typer.Option(help="Folder of audit.json, recon.npz and report.html.")],
    update: Annotated[Path | None, typer.Option(metavar="U.safetensors", help="Mean gradients by name.")] = None,
    weights_after: Annotated[
        Path | None, typer.Option(metavar="W2.safetensors", help="Or the parameters after local training.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per local step.")] = 1,
    label: Annotated[str | None, typer.Option(metavar="3,5", help="Labels, if the attacker knows them.")] = None,
    codec: Annotated[str | None, typer.Option(metavar="fp32|fp16|int8|…", help="What the update went through.")] = None,
    local_steps: Annotated[int, typer.Option(help="Local SGD steps, with --weights-after.")] = 1,
    lr: Annotated[float | None, typer.Option(help="Their learning rate.")] = None,
    truth: Annotated[Path | None, typer.Option(metavar="X.npz", help="Array x [N, *shape], to score by.")] = None,
    lpips: Annotated[
        Path | None, typer.Option(metavar="LPIPS.onnx", help="LPIPS with its weights, for --truth.")
    ] = None,
    input_range: Annotated[str, typer.Option(metavar="LOW,HIGH", help="What 0 and 1 are normalised to.")] = "0,1",
    budget: Annotated[float, typer.Option(metavar="S", help="Seconds for all attacks.")] = 60.0,
    control: Annotated[
        bool,
        typer.Option("--control/--no-control", help="Also attack noise in the update's place."),
    ] = True,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Go on after a certified reconstruction.")] = False,
) -> None:
    """Run the attacks on your own model and an update that you captured.

    FACTORY returns an nn.Module that maps frames [T, B, *shape] to logits [B, classes]. Nothing is unpickled; only your
    own FILE.py is executed.

    Example: spikeleak audit --model net.py:make --weights w.safetensors --update u.safetensors --input-shape 1,28,28
    --encoding direct --steps 10 --out runs/audit
    """
    from deploy.audit.console import show  # noqa: PLC0415 - keeps `--help` fast
    from deploy.audit.request import AuditRequest, numbers  # noqa: PLC0415

    low_high = numbers("--input-range", input_range, float)
    if len(low_high) != 2:
        raise ConfigurationError(f"--input-range {input_range}: two numbers LOW,HIGH are expected")
    show(
        AuditRequest(
            model=model,
            weights=weights,
            update=update,
            weights_after=weights_after,
            input_shape=numbers("--input-shape", input_shape, int),
            encoding=encoding,
            steps=steps,
            batch_size=batch_size,
            labels=None if label is None else numbers("--label", label, int),
            codec=codec,
            local_steps=local_steps,
            learning_rate=lr,
            truth=truth,
            lpips=lpips,
            input_range=(low_high[0], low_high[1]),
            budget_s=budget,
            control=control,
            exhaustive=exhaustive,
            out=out,
        )
    )

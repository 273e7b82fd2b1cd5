"""The floor of a worst case: what the attacks reach on noise; a missing score is no figure, a missing image no 0."""

from __future__ import annotations

from server.report.data import NoiseRow
from server.report.noise_level import best_on_noise, noise_level


def row(update: str, attack: str, psnr_db: float | None, **changes) -> NoiseRow:
    return NoiseRow(
        **{"update": update, "attack": attack, "verdict": "partial", "psnr_db": psnr_db, "scored": True, **changes}
    )


def test_it_is_the_best_of_all_attacks_on_each_noise_update():
    rows = [row("u", "a", 8.0), row("u", "b", 9.5), row("v", "a", None), row("v", "b", None), row("w", "a", 7.0)]
    rows += [row("w", "b", None, scored=False), row("x", "a", 50.0, verdict="refused")]
    assert best_on_noise(rows) == {("u", "update"): 9.5, ("v", "update"): float("-inf")}
    level = noise_level(rows, ())
    assert (level.updates, level.median_db, level.max_db, level.beside_db) == (2, None, 9.5, None)
    assert level.text == "median no image, largest 9.5, over n = 2 noise updates"
    assert noise_level([row("u", "a", None, scored=False)], ()).text == "not scored"
    level = noise_level([row(name, "a", figure) for name, figure in (("u", 8.0), ("v", 9.0), ("w", 10.0))], ())
    assert "median 9.0 dB, 95 % interval 8.0 to 10.0, largest 10.0, over n = 3" in level.text

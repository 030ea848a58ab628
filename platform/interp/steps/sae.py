"""Sparse autoencoders of a site's activations, how good they are, and how good the same is where nothing was learnt.

Autoencoders of some kinds (`methods.sae.kinds`) are trained on the activation store of `collect`, each with several
seeds, on the tokens of some groups, and judged on those of the others: what of the activation they reconstruct with how
many latents, what the model loses with the reconstruction in the activation's place, which latents are dead or dense,
what latents go with, and how classes of tokens are split over latents and absorbed by others. Beside them stand the
same autoencoder on the model with its weights shuffled, and as many of the site's own channels and principal
components: published audits find that the usual figures do not tell trained from random models (Heap et al. 2025, arXiv
2501.17727).

Tensors are those of each autoencoder, named by the column `tensors` of `saes`; steering reads them (`read_dictionary`),
other programs what `methods.sae.saelens` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import AfterValidator, Field, field_validator

from ...core.errors import InputError, UsageError
from ...runtime.plan import digest_of
from ..engine.batches import spread
from ..engine.effort import mean_length, of_files
from ..engine.fitting import Schedule, one_thread
from ..engine.places import SITE_WORDS, places, relative_names
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepOutput, StepSettings, named_once, step
from ..engine.view import BarPart, Column, LinePart, TablePart, View
from ..methods.activation_store import Store, Stored
from ..methods.sae.ablated_losses import LOSSES, Losses, batch_losses, replaced, spliced
from ..methods.sae.class_rows import absorption_rows, classes_of
from ..methods.sae.correlates import correlations
from ..methods.sae.dictionary import SparseDictionary, channels_dictionary, pca_dictionary
from ..methods.sae.examples import Examples, moments
from ..methods.sae.kinds import SAE_KINDS, Options
from ..methods.sae.material import Material, Sides, known_of, material_of, sides
from ..methods.sae.measures import Measured, max_cosines, measure, top_tokens
from ..methods.sae.tables import (
    ABSORPTION,
    BASELINES,
    CONTEXTS,
    FEATURES,
    SAES,
    SPREAD,
    context_rows,
    feature_rows,
    number,
    spread_rows_of,
    strongest_associations,
)
from ..methods.sae.training import Trained, train

if TYPE_CHECKING:
    from torch import Tensor


class Settings(StepSettings):
    small = {"kinds": ("batch_topk",), "seeds": 2, "expansion": 0.5, "k": 4, "steps": 20, "batch_size": 64,
             "splice_prompts": 2, "tokens": 300}  # fmt: skip

    kinds: Annotated[tuple[str, ...], AfterValidator(named_once)] = ("batch_topk", "relu")
    """kinds of autoencoders: relu, topk, batch_topk, jumprelu, matryoshka"""
    sites: Sites = ("resid_post",)
    """sites that `collect` stored; states too"""
    layers: tuple[int, ...] | Literal["middle", "all"] = "middle"
    """blocks, of those that are looked at; middle: the one halfway up"""
    seeds: int = Field(3, ge=1, le=100)
    """training runs of each, whose spread is reported"""
    expansion: float = Field(2.0, gt=0)
    """latents, in widths of the site"""
    k: int = Field(16, ge=1)
    """latents active at a token; for relu, l1 decides"""
    l1: float = Field(0.05, gt=0)
    """relu: weight of the latents' sum, where inputs have a mean square of 1 a channel, in units of sqrt(width)"""
    steps: int = Field(800, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    warm_up: float = Field(0.05, ge=0, lt=1)
    """share of the steps over which the learning rate rises"""
    decay: float = Field(0.3, ge=0, lt=1)
    """share of the steps over which it falls to 0"""
    silent_for: int = Field(10_000, ge=1)
    """examples after which a latent that was never active is trained on what the others leave"""
    held_out: float = Field(0.25, gt=0, lt=1)
    """share of the groups of questions by which they are judged"""
    tokens: int = Field(20_000, ge=1)
    """tokens at most, evenly spread, that correlations, contexts and classes are measured on"""
    splice_prompts: int = Field(24, ge=1)
    """held-out prompts at most in which reconstructions are put in the activation's place"""
    contexts: int = Field(3, ge=0)
    """tokens shown for each of the latents that carry most"""
    context_latents: int = Field(24, ge=0)
    classes: Literal["facts_world", "first_letter"] = "facts_world"
    """classes of tokens for absorption and splitting"""
    baselines: bool = True
    """whether to train on the model with shuffled weights too, and to measure channels and principal components"""

    @field_validator("layers")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        return value if isinstance(value, str) else named_once(value)

    @property
    def options(self) -> Mapping[str, Any]:
        """Of `kinds.Options`, but for the number of latents."""
        return {"k": self.k, "l1": self.l1}

    def schedule(self) -> Schedule:
        """Of each training run."""
        warm_up, decay = (round(share * self.steps) for share in (self.warm_up, self.decay))
        return Schedule(self.steps, self.batch_size, self.learning_rate, warm_up=warm_up, decay=decay)


def layers_of(settings: Settings, layers: Sequence[int]) -> list[int]:
    """The blocks that are chosen of those looked at. Raises UsageError for one that is not among them."""
    if settings.layers == "all":
        return list(layers)
    if settings.layers == "middle":
        return [layers[len(layers) // 2]]
    for layer in settings.layers:
        if layer not in layers:
            raise UsageError(f"layers name block {layer}, which is not looked at ({', '.join(map(str, layers))})")
    return sorted(settings.layers)


def check(asked: Asked) -> None:
    """`Step.check`: kinds, sites and blocks exist, and the store has them."""
    for kind in asked.settings.kinds:
        SAE_KINDS.full_name(kind)
    layers = layers_of(asked.settings, asked.layers)
    chosen = {place.site for place in places(asked.model, layers, asked.settings.sites, one_axis=False)}
    if "collect" in asked.upstream:
        stored = set(relative_names(asked.model, asked.upstream["collect"].sites))
        for site in sorted(chosen - stored):
            raise UsageError(f"its sites name {site!r}, which collect.sites does not; add it there")
        if asked.settings.baselines and not asked.upstream["collect"].baseline:
            raise UsageError("its baselines need collect.baseline=true; or set baselines=false")


def code(settings: Settings) -> list[str]:
    """Modules of the kinds."""
    return [SAE_KINDS.module(kind) for kind in settings.kinds]


VIEW = View(
    "Sparse autoencoders",
    "Latents that reconstruct a site's activation, few at a time. Judged on tokens of questions they were not trained "
    "on. A figure that is as good for shuffled weights, channels or principal components says nothing of what the "
    "model has learnt. Correlations and contexts describe a latent and are no proof that the model uses it.",
    (
        TablePart(
            part="spread",
            title="What they reconstruct and what the model loses, over seeds",
            only={"status": "ok"},
            words=SITE_WORDS,
            columns=(
                Column("layer"), Column("site"), Column("kind"), Column("measure"),
                Column("mean", "mean", "low", "high"),
                Column("sd", absent="–"), Column("seeds"),
            ),
        ),
        BarPart(part="baselines", x="basis", y="explained_variance", group="model", each=("layer", "site", "kind"),
                only={"status": "ok"}, title="Explained variance at the L0 of {kind}, block {layer}, {site}",
                label="explained variance", words=SITE_WORDS),
        BarPart(part="baselines", x="basis", y="recovered_mean", group="kind", each=("layer", "site"),
                only={"status": "ok", "model": "trained"}, title="Loss recovered, block {layer}, {site}",
                label="loss recovered against the mean", words=SITE_WORDS),
        LinePart(part="features", x="density_rank", y="density", group="kind", each=("layer", "site"), log_y=True,
                 only={"seed": 0, "alive": True}, title="Density of latents, block {layer}, {site}",
                 x_label="latents, the densest first", label="share of tokens", words=SITE_WORDS),
        TablePart(
            part="absorption",
            title="Classes of tokens: split over latents, absorbed by others",
            only={"status": "ok", "seed": 0},
            columns=(
                Column("layer"), Column("site"), Column("kind"), Column("class"), Column("tokens"), Column("probe_f1"),
                Column("sparse_f1"), Column("splitting", "latents"), Column("full_absorption", "fully absorbed"),
                Column("absorption_fraction", "share absorbed"),
            ),
        ),
        TablePart(
            part="contexts",
            title="Where the latents that carry most are largest",
            columns=(
                Column("layer"), Column("site"), Column("kind"), Column("latent"), Column("value"), Column("context"),
            ),
            folded=True,
        ),
    ),
)  # fmt: skip

Rows = list[dict[str, Any]]


class _Found(NamedTuple):
    """An autoencoder and where its splice is in the list of replacements; row: of `SAES`, without the losses."""

    row: dict[str, Any]
    trained: Trained
    measured: Measured
    spliced: int | None
    exact: int | None


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: the fits, which read no text, and prompts with every dictionary spliced in."""
    settings: Settings = asked.settings
    trained = len(settings.kinds) * (settings.seeds + (3 if settings.baselines else 0))
    places = len(settings.sites) * (len(asked.layers) if settings.layers == "all" else 1)
    spliced = min(settings.splice_prompts, len(lengths)) * mean_length(lengths)
    fits = 1e-5 * settings.steps * settings.batch_size * trained * places
    return Effort(3.0 * spliced * trained * places, of_files(9) + 250_000 * trained * places, fits)


@step("sae", needs=("collect",), settings=Settings, seeded=True, check=check, view=VIEW, code=code, cost=cost)
def sae(job: Job) -> StepOutput:
    """Sparse autoencoders of activations, beside shuffled weights, channels and principal components."""
    run = _Run(job)
    layers = layers_of(job.settings, job.layers)
    sites = relative_names(job.model, job.settings.sites)
    chosen = [place for place in run.store.places if place.layer in layers and place.site in sites]
    with one_thread():
        for place in chosen:
            run.place(place)
    run.splice()
    schemas = {"saes": SAES, "features": FEATURES, "contexts": CONTEXTS, "absorption": ABSORPTION,
               "baselines": BASELINES}  # fmt: skip
    tables = {name: pa.Table.from_pylist(run.rows[name], schema=schema) for name, schema in schemas.items()}
    tables["spread"] = pa.Table.from_pylist(spread_rows_of(run.rows["saes"]), schema=SPREAD)
    return StepOutput(tables, run.tensors)


class _Run:
    """What the places have in common, and the rows so far."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self.store = Store.of(job)
        self.shuffled = Store.of(job, "shuffled") if job.settings.baselines else None
        self.split = sides(self.store.tokens, job.settings.held_out) if len(self.store) else Sides(*[np.arange(0)] * 2)
        self.rows: dict[str, Rows] = {n: [] for n in ("saes", "features", "contexts", "absorption", "baselines")}
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.replacements: list[dict[str, Any]] = []
        self.losses: list[tuple[dict[str, Any], tuple[int | None, int | None, int | None], int | None]] = []
        known = {site.name: site for site in job.model.sites()}
        self.editable = {name for name, site in known.items() if site.editable}

    def place(self, place: Stored) -> None:
        """Train, measure and put into rows all of one place."""
        about = {"layer": place.layer, "site": place.site}
        reason = None
        if not len(self.split.learn) or not len(self.split.judge):
            reason = "the activation store has no two groups of questions"
        elif not float(self.store.std(place).max()) > 0:
            reason = "the activation is the same at every token"
        if reason is not None:
            nothing = {"status": NOT_APPLICABLE, "reason": reason}
            for kind in self.settings.kinds:
                self.rows["saes"].append(about | {"kind": kind} | nothing)
                self.rows["baselines"].append(about | {"kind": kind} | nothing)
                self.rows["absorption"].append(about | {"kind": kind, "status": NOT_APPLICABLE})
            return
        material = material_of(self.store, place, self.split, self.settings.tokens)
        zero = self._replace(place, replaced(place.name, 0.0, place.shape))
        mean = self._replace(place, replaced(place.name, self.store.mean(place), place.shape))
        classes = classes_of(self.store.tokens, material, self.settings.classes)
        for kind in self.settings.kinds:
            found = [self._train(kind, at, material) for at in range(self.settings.seeds)]
            decoders = [one.trained.dictionary.W_dec for one in found]
            for at, one in enumerate(found):
                others = [w for other, w in enumerate(decoders) if other != at]
                match = torch.stack([max_cosines(decoders[at], w) for w in others]).mean(0) if others else None
                one.row["seed_match"] = None if match is None else float(match.mean())
                self._describe(one, material, match, first=at == 0)
                about = {name: one.row[name] for name in ("layer", "site", "kind", "seed")}
                rows, means = absorption_rows(about, one.trained.dictionary, material, classes)
                self.rows["absorption"] += rows
                one.row.update(means)
                self.rows["saes"].append(one.row)
                self.losses.append((one.row, (one.spliced, zero, mean), one.exact))
            if self.settings.baselines:
                self._baselines(kind, found[0], material, (zero, mean))

    def splice(self) -> None:
        """Put the losses into the rows."""
        if not self.replacements:
            return
        held = set(self.store.tokens.take(self.split.judge)["group"].to_pylist())
        some = spread([item for item in self.job.items if item.group in held], self.settings.splice_prompts)
        arguments = {"ids": [item.id for item in some], "replacements": self.replacements}
        losses = Losses(self.job.map(batch_losses, LOSSES, arguments))
        for row, numbers, exact in self.losses:
            row |= losses.about(*numbers)
            if "error_term_exact" in row:
                row["error_term_exact"] = None if exact is None else losses.exact.get(exact)

    def _replace(self, place: Stored, replacement: dict[str, Any]) -> int | None:
        """The number of a replacement that is to be made; None where the site cannot be edited."""
        if place.name not in self.editable:
            return None
        self.replacements.append(replacement)
        return len(self.replacements) - 1

    def _train(self, kind: str, at: int, material: Material) -> _Found:
        place = material.place
        seed = int(digest_of([self.job.seed, place.name, kind, at])[:15], 16)
        name = f"{kind}-{place.layer}-{place.site}-{at}"
        trained = self._fit(kind, material.learn, seed, name)
        measured = measure(trained.dictionary, material.judge)
        self.tensors[name] = trained.dictionary.tensors()
        last = trained.losses[-max(1, len(trained.losses) // 10) :]
        row = {
            "layer": place.layer, "site": place.site, "kind": kind, "seed": at, "tensors": name,
            "n_latents": trained.dictionary.n_latents, "tokens": len(material.learn),
            "held_out": self.settings.held_out,
            "tokens_held_out": len(material.judge), "scale": trained.scale, "final_loss": float(np.mean(last)),
            "explained_variance": number(measured.explained_variance), "l0": measured.l0,
            "dead_share": measured.dead_share, "dense_share": measured.dense_share,
            "error_term_exact": None, "status": "ok",
        }  # fmt: skip
        spliced_at = self._replace(place, spliced(place.name, trained.dictionary))
        exact = None
        if at == 0:
            exact = self._replace(place, spliced(place.name, trained.dictionary, keep_error=True))
        return _Found(row, trained, measured, spliced_at, exact)

    def _fit(self, kind: str, examples: Examples, seed: int, name: str) -> Trained:
        settings = self.settings
        options = Options(max(2, round(settings.expansion * examples.width)), **settings.options)
        return train(
            SAE_KINDS.get(kind), examples, options, settings.schedule(), seed=seed, name=name,
            silent_for=settings.silent_for, folder=self.job.folder, progress=self.job.progress,
        )  # fmt: skip

    def _describe(self, one: _Found, material: Material, match: Tensor | None, *, first: bool) -> None:
        """Rows of latents, and for the first seed of their contexts."""
        dictionary = one.trained.dictionary
        about = {name: one.row[name] for name in ("layer", "site", "kind", "seed")}
        known, categories = known_of(self.store.tokens, material.rows)
        measured = measure(dictionary, material.some)
        found = correlations(dictionary, material.some, known)
        self.rows["features"] += feature_rows(about, dictionary, measured, found, categories, match)
        if first and self.settings.contexts:
            top = top_tokens(dictionary, material.some, self.settings.contexts)
            rows = material.rows.tolist()
            latents = self.settings.context_latents
            self.rows["contexts"] += context_rows(about, measured, top, rows, self.store.tokens, latents)

    def _baselines(self, kind: str, first: _Found, material: Material, ablated: tuple[int | None, int | None]) -> None:
        """Rows of `BASELINES`, the autoencoder itself the first of them."""
        place = material.place
        for basis, dictionary in _bases(first.trained.dictionary, first.measured, material).items():
            at = first.spliced if basis == "sae" else self._replace(place, spliced(place.name, dictionary))
            row = self._baseline("trained", kind, basis, dictionary, material)
            self.losses.append((row, (at, *ablated), None))
            self.rows["baselines"].append(row)
        assert self.shuffled is not None, "`check` wants the store of shuffled weights for baselines"
        other = self.shuffled.place(place.layer, place.site)
        of_other = material_of(self.shuffled, other, self.split, self.settings.tokens)
        try:
            trained = self._fit(kind, of_other.learn, self.job.seed, f"shuffled-{kind}-{place.layer}-{place.site}")
        except InputError as error:  # activations that are all the same
            row = {"layer": place.layer, "site": place.site, "kind": kind, "model": "shuffled", "basis": "sae"}
            self.rows["baselines"].append(row | {"status": NOT_APPLICABLE, "reason": str(error)})
            return
        measured = measure(trained.dictionary, of_other.judge)
        for basis, dictionary in _bases(trained.dictionary, measured, of_other).items():
            self.rows["baselines"].append(self._baseline("shuffled", kind, basis, dictionary, of_other))

    def _baseline(
        self, model: str, kind: str, basis: str, dictionary: SparseDictionary, material: Material
    ) -> dict[str, Any]:
        measured = measure(dictionary, material.judge)
        known, _ = known_of(self.store.tokens, material.rows)
        found = correlations(dictionary, material.some, known)
        category, position = strongest_associations(found, measure(dictionary, material.some))
        return {
            "layer": material.place.layer, "site": material.place.site, "kind": kind, "model": model, "basis": basis,
            "l0": measured.l0, "explained_variance": number(measured.explained_variance),
            "dead_share": measured.dead_share, "r_category": category, "r_position": position, "status": "ok",
        }  # fmt: skip


def _bases(dictionary: SparseDictionary, measured: Measured, material: Material) -> dict[str, SparseDictionary]:
    """The dictionary, and as many channels and principal components a token as it has latents active."""
    mean, covariance = moments(material.learn)
    k = max(1, round(measured.l0))
    return {
        "sae": dictionary, "channels": channels_dictionary(mean, k), "pca": pca_dictionary(covariance, mean, k),
    }  # fmt: skip

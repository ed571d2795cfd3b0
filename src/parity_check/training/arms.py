"""The arms of a training comparison: which engine each has, and with what settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import SHAPING, Config, Workload
from parity_check.config.training import FIRST, TRAINER, Arm, Training
from parity_check.engines.kinds import configured_engine
from parity_check.engines.pauses import IN_PROCESS
from parity_check.errors import ConfigError

SOURCE = "training"


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: an arm with a seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"


def training_of(config: Config) -> Training:
    """The tables [training]. Raises ConfigError."""
    if config.training is None:
        raise ConfigError(
            "the configuration has no table [training]",
            hint="`parity-check init training-curves` writes one",
        )
    return config.training


def arms(config: Config) -> dict[str, Arm]:
    """All arms, the reference first."""
    training = training_of(config)
    return {FIRST: Arm(engine=FIRST), **training.arms}


def runs(config: Config) -> tuple[Run, ...]:
    """Every run: the reference with each seed, the other arms with the first."""
    training = training_of(config)
    first = [Run(FIRST, seed) for seed in training.seeds]
    return (*first, *(Run(name, training.seeds[0]) for name in training.arms))


def lag_of(arm: Arm, training: Training) -> int:
    """How many updates land while a sequence of this arm is under way."""
    return training.lag if arm.lag is None else arm.lag


def engines(config: Config) -> Config:
    """The configuration with an engine for each arm, and the trainer; the reference in its place.

    Raises ConfigError for an engine that cannot be an arm.
    """
    training = training_of(config)
    tree = dump_config(config)
    tables: dict[str, Any] = {}
    for name, arm in arms(config).items():
        can = configured_engine(arm.engine, config).can
        if not (can.samples and can.updates_weights):
            raise ConfigError(
                f"training.arms.{name}: {arm.engine} is {can.noun}, whose weights parity-check "
                "cannot update",
                hint="an arm is a vLLM engine that parity-check starts",
            )
        tables[name] = _table(config, arm)
    tree["reference"] = tables.pop(FIRST)
    trainer = training.trainer.model_dump(mode="json", exclude_none=True)
    tree["engines"] = {**tables, TRAINER: trainer}
    return parse_config(tree, source=SOURCE)


def configured(config: Config) -> dict[str, Any]:
    """All that an arm's runs depend on but their seeds, by arm: equal for arms that do the same."""
    training = training_of(config)
    return {
        name: (_table(config, arm), lag_of(arm, training), arm.mode, arm.clear_cache)
        for name, arm in arms(config).items()
    }


def _table(config: Config, arm: Arm) -> dict[str, Any]:
    """The table of the arm's engine, with the arm's settings."""
    table = config.engine(arm.engine).model_dump(mode="json", exclude_none=True)
    table["settings"] = {**table["settings"], **arm.settings}
    table["engine_args"] = {**table["engine_args"], **arm.engine_args}
    table["env"] = {**IN_PROCESS, **table["env"]}
    return table


def seeded(config: Config, seed: int) -> Config:
    """The same with the engines' seed; prompts stay those of `workload.seed`."""
    return config.model_copy(update={"workload": config.workload.model_copy(update={"seed": seed})})


def one_shot(config: Config, engines: Config, arm: str) -> Config:
    """The comparison of one arm's engine with the reference; `engines` is of `engines`."""
    return config.model_copy(
        update={
            "reference": engines.reference,
            "candidate": engines.engines[arm],
            "engines": {},
            "training": None,
        }
    )


def check(config: Config) -> None:
    """Raises ConfigError for arms and a trainer that cannot be trained together."""
    training = training_of(config)
    workload = config.workload
    neutral = Workload(temperature=workload.temperature)
    changed = [name for name in SHAPING if getattr(workload, name) != getattr(neutral, name)]
    if changed:
        raise ConfigError(
            f"training: workload.{changed[0]} shapes what the engines sample, and the trainer's "
            "loss does not apply it"
        )
    if workload.temperature == 0:
        raise ConfigError("training: workload.temperature = 0 leaves nothing to learn from")
    own = getattr(training.trainer, "transformers", None)
    if own is not None and not own.temperature and workload.temperature != 1.0:
        raise ConfigError(
            f"training.trainer: its logits are not divided by a temperature, and the engines "
            f"sample at {workload.temperature:g}",
            hint="set temperature = true in [training.trainer.transformers]",
        )
    for name, arm in arms(config).items():
        lag = lag_of(arm, training)
        if lag >= workload.max_tokens:
            raise ConfigError(
                f"training.arms.{name}: {lag} updates cannot land in a sequence of "
                f"{workload.max_tokens} tokens"
            )

"""Tests of search spaces in Hydra's grammar: their dimensions, their overrides, and rejected spaces."""

import itertools

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from alexnet_exp.config.compose import compose_run, each_job
from alexnet_exp.errors import UserError
from alexnet_exp.sweep.search.space import Choice, IntegerRange, RealRange, parse

TYPED = {
    "model=lrn,bn": Choice("model", "lrn,bn", ("lrn", "bn")),
    "model.width=choice(0.25,0.5,1)": Choice("model.width", "choice(0.25,0.5,1)", ("0.25", "0.5", "1")),
    "callbacks=[ema],[]": Choice("callbacks", "[ema],[]", ("[ema]", "[]")),
    "note='a,b',c": Choice("note", "'a,b',c", ("'a,b'", "c")),
    "trainer.max_time=null,'0:0:1:0'": Choice("trainer.max_time", "null,'0:0:1:0'", ("null", "'0:0:1:0'")),
    "model=lrn,lrn": Choice("model", "lrn,lrn", ("lrn",)),
    "+a.b=1,2": Choice("+a.b", "1,2", ("1", "2")),
    "data.batch_size=range(32,257,32)": IntegerRange("data.batch_size", "range(32,257,32)", 32, 256, 32),
    "data.batch_size=range(32,250,32)": IntegerRange("data.batch_size", "range(32,250,32)", 32, 224, 32),
    "seed=range(5)": IntegerRange("seed", "range(5)", 0, 4),
    "seed=range(10,0,-3)": IntegerRange("seed", "range(10,0,-3)", 1, 10, 3),
    "seed=int(interval(1,64))": IntegerRange("seed", "int(interval(1,64))", 1, 64),
    "seed=tag(log,int(interval(1,64)))": IntegerRange("seed", "tag(log,int(interval(1,64)))", 1, 64, log=True),
    "seed=tag(log,range(1,9))": IntegerRange("seed", "tag(log,range(1,9))", 1, 8, log=True),
    "model.dropout=interval(0,0.8)": RealRange("model.dropout", "interval(0,0.8)", 0.0, 0.8),
    "optim.lr=tag(log, interval(1e-4,1e-1))": RealRange(
        "optim.lr", "tag(log, interval(1e-4,1e-1))", 1e-4, 0.1, log=True
    ),
    "model.dropout=range(0,1,0.1)": RealRange("model.dropout", "range(0,1,0.1)", 0.0, 0.9, 0.1),
    "model.dropout=range(0,0.95,0.1)": RealRange("model.dropout", "range(0,0.95,0.1)", 0.0, 0.9, 0.1),
}


@pytest.mark.parametrize(("typed", "dimension"), TYPED.items(), ids=TYPED)
def test_an_override_becomes_a_dimension(typed, dimension):
    space = parse(["trainer.max_epochs=2", typed])
    assert space.dimensions == {dimension.key: dimension}
    assert space.fixed == ("trainer.max_epochs=2",)


@pytest.mark.parametrize("typed", [typed for typed in TYPED if "interval" not in typed and "-3" not in typed])
def test_values_equal_those_of_hydras_sweeper(typed):
    [dimension] = parse([typed]).dimensions.values()
    ours = [f"{dimension.key}={dimension.text(value)}" for value in dimension.values()]

    def read(text):
        return OverridesParser.create().parse_override(text).value()

    hydras = list(dict.fromkeys(job[0] for job in each_job([typed])))
    for mine, theirs in zip(map(read, ours), map(read, hydras), strict=True):
        assert mine == (pytest.approx(theirs, rel=1e-12) if isinstance(theirs, float) else theirs)


def test_a_range_of_fractions_has_round_numbers():
    [dimension] = parse(["model.dropout=range(0,1,0.1)"]).dimensions.values()
    assert [dimension.text(value) for value in dimension.values()] == [f"0.{tenth}" for tenth in range(10)]


@pytest.mark.parametrize("value", [1e-05, 0.1 + 0.2, 3.14159e-12, 1e16, 123456.789, 1e-4])
def test_hydra_parses_a_number_to_the_same_bits(value):
    text = RealRange("optim.lr", "", 0.0, 1e20).text(value)
    assert OverridesParser.create().parse_override(f"optim.lr={text}").value() == value


def test_the_last_override_of_a_key_counts():
    space = parse(["optim.lr=interval(0,1)", "seed=1,2", "seed=7", "optim.lr=interval(0.1,0.2)"])
    assert space.dimensions == {"optim.lr": RealRange("optim.lr", "interval(0.1,0.2)", 0.1, 0.2)}
    assert space.fixed == ("seed=7",)


def test_dimensions_become_distributions(tmp_path):
    from alexnet_exp.sweep.search.settings import SearchSettings
    from alexnet_exp.sweep.search.study import Study

    space = parse(["model=lrn,bn", "data.batch_size=range(32,257,32)", "optim.lr=tag(log,interval(1e-4,1e-1))"])
    study = Study(SearchSettings(), space, tmp_path, "val/top1")
    study.ask()
    [trial] = study.study.trials
    assert trial.distributions == {
        "model": CategoricalDistribution(("lrn", "bn")),
        "data.batch_size": IntDistribution(32, 256, step=32),
        "optim.lr": FloatDistribution(1e-4, 0.1, log=True),
    }


def test_combinations_are_the_product_in_the_order_of_hydra():
    typed = ["model=lrn,bn", "seed=range(1,4)", "optim.lr=0.1,0.01"]
    space = parse([*typed, "data.subset=96"])
    ours = [space.varied(values) for values in space.combinations()]
    assert ours == list(each_job(typed))
    assert ours == [
        [f"model={model}", f"seed={seed}", f"optim.lr={lr}"]
        for model, seed, lr in itertools.product(("lrn", "bn"), (1, 2, 3), (0.1, 0.01))
    ]


def test_a_grid_over_an_interval_is_rejected():
    with pytest.raises(UserError, match=r"^optim\.lr=interval\(0,1\): a grid needs countable values"):
        parse(["optim.lr=interval(0,1)", "seed=1,2"]).combinations()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("optim.lr=interval(1,0.1)", "write the lower end first"),
        ("optim.lr=tag(log,interval(0,0.1))", "must be above 0"),
        ("optim.lr=interval(0,inf)", "must be finite"),
        ("seed=range(5,1)", "the range is empty"),
        ("seed=range(1,5,0)", "the step is 0"),
        ("seed=tag(log,range(1,9,2))", "has no step"),
        ("model=tag(log,choice(1,2))", "leave it out for a list"),
        ("seed=tag(logg,range(1,9))", "the tag logg is unknown"),
        ("optim.lr=interval(1", "cannot be read"),
    ],
)
def test_an_invalid_dimension_is_rejected_with_its_override(typed, words):
    with pytest.raises(UserError) as refused:
        parse(["seed=1,2", typed])
    [line] = str(refused.value).splitlines()
    assert line.startswith(typed)
    assert words in line


def test_a_search_without_dimensions_is_rejected():
    with pytest.raises(UserError, match="no setting has several values"):
        parse(["seed=1"])


def test_all_problems_at_the_corners_are_reported_at_once():
    typed = [
        "data.batch_size=interval(32,64)",
        "model=lrn,lnr,xyz",
        "optim.lrr=interval(0.1,0.2)",
        "optim.weight_decay=interval(-0.1,0.1)",
        "model.dropout=interval(0,1.5)",
        "seed=range(1,4)",
    ]
    with pytest.raises(UserError) as refused:
        parse(typed).check(None)
    lines = str(refused.value).splitlines()
    assert len(lines) == len(set(lines)) == 6, lines
    start = [
        "data.batch_size=interval(32,64): 32.0 must be a whole number; write int(interval(32,64))",
        "model=lnr: did you mean lrn?",
        "model=xyz: ",
        "optim.lrr=interval(0.1,0.2): 0.1 unknown setting; did you mean optim.lr?",
        "optim.weight_decay=interval(-0.1,0.1): -0.1 must be at least 0",
        "model.dropout=interval(0,1.5): 1.5 must be",
    ]
    for words in start:
        assert sum(line.startswith(words) for line in lines) == 1, (words, lines)


def test_corners_vary_one_dimension_at_a_time():
    space = parse(["model=lrn,bn,none", "optim.lr=interval(0.001,0.1)", "data.subset=96"])
    configs = space.check(None)
    assert [(config.model.norm.name, config.optim.lr) for config in configs] == [
        ("lrn", 0.001),
        ("bn", 0.001),
        ("none", 0.001),
        ("lrn", 0.1),
    ]
    expected = compose_run(["model=lrn", "optim.lr=0.1", "data.subset=96"]).config
    assert configs[-1] == expected

"""Trains on real tables with the defaults of --data, and compares the fits.

Usage: .venv/bin/python scripts/tables.py

Two of the tables and the last column need scikit-learn (.venv/bin/python -m pip install
scikit-learn); otherwise they are left out. Prints R² on the training examples as a Markdown table.
"""

import contextlib
import importlib.util
import io
import pathlib
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib

Table = dict[str, npt.NDArray[Any]]

# NIST's Statistical Reference Datasets, https://www.itl.nist.gov/div898/strd/: Norris,
NORRIS = """0.2 0.1 337.4 338.8 118.2 118.1 884.6 888 10.1 9.2 226.5 228.1 666.3 668.5 996.3 998.5
448.6 449.1 777 778.9 558.2 559.2 0.4 0.3 0.6 0.1 775.5 778.1 666.9 668.8 338 339.3 447.5 448.9
11.6 10.8 556 557.7 228.1 228.3 995.8 998 887.6 888.8 120.2 119.6 0.3 0.3 0.3 0.6 556.8 557.6
339.1 339.3 887.2 888 999 998.5 779 778.9 11.1 10.2 118.3 117.6 229.2 228.9 669.1 668.4 448.9 449.2
0.5 0.2"""
# and Longley.
LONGLEY = """83 234289 2356 1590 107608 1947 60323 88.5 259426 2325 1456 108632 1948 61122
88.2 258054 3682 1616 109773 1949 60171 89.5 284599 3351 1650 110929 1950 61187
96.2 328975 2099 3099 112075 1951 63221 98.1 346999 1932 3594 113270 1952 63639
99 365385 1870 3547 115094 1953 64989 100 363112 3578 3350 116219 1954 63761
101.2 397469 2904 3048 117388 1955 66019 104.6 419180 2822 2857 118734 1956 67857
108.4 442769 2936 2798 120445 1957 68169 110.8 444546 4681 2637 121950 1958 66513
112.6 482704 3813 2552 123366 1959 68655 114.2 502601 3931 2514 125368 1960 69564
115.7 518173 4806 2572 127852 1961 69331 116.9 554894 4007 2827 130081 1962 70551"""


def norris() -> Table:
    """One feature from 0 to 1,000."""
    x, y = np.array(NORRIS.split(), float).reshape(-1, 2).T
    return {"x": x, "y": y}


def longley() -> Table:
    """Six features, nearly collinear: the economy of the United States over 16 years."""
    columns = np.array(LONGLEY.split(), float).reshape(-1, 7).T
    names = ("deflator", "gnp", "unemployed", "forces", "population", "year", "employed")
    return dict(zip(names, columns, strict=True))


def houses() -> Table:
    """Made-up prices by area, rooms and year."""
    random = np.random.default_rng(0)
    area, rooms = random.uniform(40, 200, 300).round(1), random.integers(1, 8, 300)
    year = random.integers(1950, 2021, 300)
    noise = random.normal(0, 60_000, 300)
    price = (3000 * area + 8000 * rooms + 500 * (year - 1950) + 50_000 + noise).round()
    return {"area": area, "rooms": rooms, "year": year, "price": price}


def california_like() -> Table:
    """20,640 rows in the units of the California housing data, with its heavy tails."""
    random = np.random.default_rng(0)
    count = 20_640
    income = random.lognormal(1.25, 0.45, count)
    rooms = 3 + 0.6 * income + random.lognormal(0, 0.7, count)
    bedrooms = 0.2 * rooms * random.lognormal(0, 0.15, count)
    latitude = random.normal(35.6, 2.1, count)
    columns = {
        "income": income,
        "age": random.integers(1, 53, count),
        "rooms": rooms,
        "bedrooms": bedrooms,
        "population": random.lognormal(7, 0.75, count).round(),
        "occupancy": 2 + random.lognormal(0, 0.5, count) + 500 * (random.random(count) < 2e-4),
        "latitude": latitude,
        "longitude": -119.6 - 0.87 * (latitude - 35.6) + random.normal(0, 0.8, count),
    }
    noise = random.normal(0, 0.7, count)
    value = 0.44 * income + 0.01 * columns["age"] - 0.42 * (latitude - 35.6) + noise
    return columns | {"value": (1e5 * value).round()}


def of_scikit_learn(name: str) -> Table:
    """One of scikit-learn's tables in raw units, with its first label."""
    from sklearn import datasets

    options = {"scaled": False} if name == "load_diabetes" else {}
    found = getattr(datasets, name)(**options)
    columns = dict(zip(found.feature_names, found.data.T, strict=True))
    return columns | {"label": found.target.reshape(len(found.data), -1)[:, 0]}


TABLES = {
    "diabetes (scikit-learn, raw units)": lambda: of_scikit_learn("load_diabetes"),
    "Linnerud (scikit-learn, raw units)": lambda: of_scikit_learn("load_linnerud"),
    "like California housing": california_like,
    "Norris (NIST)": norris,
    "Longley (NIST)": longley,
    "houses": houses,
}


def write(table: Table, path: pathlib.Path) -> None:
    """Writes a table as a CSV file, with enough digits to restore its numbers."""
    lines = [
        ",".join(table),
        *(
            ",".join(map(repr, row))
            for row in zip(*map(np.ndarray.tolist, table.values()), strict=True)
        ),
    ]
    path.write_text("\n".join(lines) + "\n")


def trained(path: pathlib.Path, epochs: int) -> float:
    """R² of training with the defaults of --data."""
    from pipeline.run import trainer

    with tempfile.TemporaryDirectory() as logdir, contextlib.redirect_stdout(io.StringIO()):
        config = config_lib.Config(data=str(path), epochs=epochs, logdir=logdir, run_name="run")
        datasets = datasets_lib.load(config)
        result = trainer.train(config, datasets)
    assert datasets.label_variances
    return 1 - result.evaluation.train["loss"] / datasets.label_variances[0]


def least_squares(path: pathlib.Path) -> float:
    """R² of least squares."""
    datasets = datasets_lib.load(config_lib.Config(data=str(path)))
    solved = datasets.least_squares
    assert solved
    assert datasets.label_variances
    return 1 - solved.minimum / datasets.label_variances[0]


def scikit_learn(table: Table) -> float:
    """R² of scikit-learn's SGDRegressor with defaults, on standardized features."""
    from sklearn import linear_model, pipeline, preprocessing

    *features, y = table.values()
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.SGDRegressor(random_state=0)
    )
    x = np.column_stack(features)
    return float(model.fit(x, y).score(x, y))


def main() -> None:
    """Prints the table."""
    from pipeline import tf_runtime

    has_scikit_learn = importlib.util.find_spec("sklearn") is not None
    tf_runtime.import_tensorflow()
    print("| Table | Least squares | 10 epochs | 1,000 epochs | `SGDRegressor` |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in TABLES.items():
            if "scikit-learn" in name and not has_scikit_learn:
                continue
            table, path = make(), pathlib.Path(folder, "table.csv")
            write(table, path)
            numbers = least_squares(path), trained(path, 10), trained(path, 1000)
            row = [f"{number:.4f}" for number in numbers]
            row.append(f"{scikit_learn(table):.4g}" if has_scikit_learn else "")
            print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

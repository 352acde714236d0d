"""What `audit --sql` prints."""

from __future__ import annotations

import json

import polars as pl


def answer_text(answer: pl.DataFrame, as_json: bool) -> str:
    """All rows: plain columns, or a JSON array of objects."""
    if as_json:
        return json.dumps(answer.to_dicts(), indent=1, default=str)
    with pl.Config(
        tbl_formatting="NOTHING",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=10_000,
        fmt_str_lengths=1000,
        fmt_table_cell_list_len=-1,
    ):
        return "\n".join(line.rstrip() for line in str(answer).splitlines())

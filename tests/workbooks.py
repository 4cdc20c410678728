"""Workbooks of Excel and OpenDocument with as little in them as their formats allow, written by the tests."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
# Two styles: as it is, and as a date.
_STYLES = (
    f'<styleSheet xmlns="{_MAIN}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/>'
    "</cellXfs></styleSheet>"
)


class Error(str):
    """A cell that holds an error, such as ``#N/A``."""


class Day(int):
    """A cell that holds a day, by Excel's number of it."""


def xlsx(path: Path, *sheets: Sequence[Sequence[Any]], hidden: Sequence[int] = ()) -> Path:
    """Writes a workbook of sheets, which are rows of cells; cells may be str, bool, numbers, Error, Day or None."""
    cells = ["".join(_xlsx_row(number, row) for number, row in enumerate(rows, start=1)) for rows in sheets]
    return xlsx_of_xml(path, *cells, hidden=hidden)


def xlsx_of_xml(path: Path, *sheets: str, hidden: Sequence[int] = ()) -> Path:
    """Writes a workbook of sheets, each the XML of its rows."""
    numbers = range(1, len(sheets) + 1)
    state = {number: ' state="hidden"' if number - 1 in hidden else "" for number in numbers}
    names = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="rId{n}"{state[n]}/>' for n in numbers)
    targets = [(f"rId{n}", "worksheet", f"worksheets/sheet{n}.xml") for n in numbers] + [
        ("rId0", "styles", "styles.xml")
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml", f'<Types xmlns="{_PACKAGE.replace("relationships", "content-types")}"/>'
        )
        archive.writestr("_rels/.rels", _relations([("rId1", "officeDocument", "xl/workbook.xml")]))
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><sheets>{names}</sheets></workbook>'
        )
        archive.writestr("xl/_rels/workbook.xml.rels", _relations(targets))
        archive.writestr("xl/styles.xml", _STYLES)
        for number, rows in zip(numbers, sheets, strict=True):
            archive.writestr(
                f"xl/worksheets/sheet{number}.xml",
                f'<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>',
            )
    return path


def ods(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Writes a spreadsheet of OpenDocument."""
    namespaces = "".join(
        f' xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in ("office", "table", "text")
    )
    cells = "".join(f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>" for row in rows)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet", zipfile.ZIP_STORED)
        manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr(
            "content.xml",
            f"<office:document-content{namespaces}><office:body><office:spreadsheet>"
            f'<table:table table:name="S">{cells}</table:table>'
            "</office:spreadsheet></office:body></office:document-content>",
        )
    return path


def _relations(targets: Sequence[tuple[str, str, str]]) -> str:
    each = "".join(
        f'<Relationship Id="{i}" Type="{_RELATIONS}/{kind}" Target="{target}"/>' for i, kind, target in targets
    )
    return f'<Relationships xmlns="{_PACKAGE}">{each}</Relationships>'


def _xlsx_row(number: int, row: Sequence[Any]) -> str:
    cells = "".join(_xlsx_cell(f"{chr(ord('A') + i)}{number}", cell) for i, cell in enumerate(row) if cell is not None)
    return f'<row r="{number}">{cells}</row>'


def _xlsx_cell(place: str, cell: Any) -> str:
    if isinstance(cell, Error):
        return f'<c r="{place}" t="e"><v>{cell}</v></c>'
    if isinstance(cell, str):
        return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is></c>'
    if isinstance(cell, bool):
        return f'<c r="{place}" t="b"><v>{int(cell)}</v></c>'
    return f'<c r="{place}" s="{int(isinstance(cell, Day))}"><v>{cell}</v></c>'


def _ods_cell(cell: Any) -> str:
    if cell is None:
        return "<table:table-cell/>"
    kind = "string" if isinstance(cell, str) else "float"
    value = "" if kind == "string" else f' office:value="{cell}"'
    text = escape(str(cell))
    return f'<table:table-cell office:value-type="{kind}"{value}><text:p>{text}</text:p></table:table-cell>'

"""Program that prints the cells of a workbook as lines of JSON; it runs in a process of its own.

A workbook of a kilobyte can ask for half a terabyte (by a cell in the last row and column), and the parser's way to
refuse is to end its process. The program imports nothing of this package.
"""

from __future__ import annotations

import datetime
import io
import json
import sys
from typing import Any, BinaryIO

# Whole numbers up to here are exact as floats, which are all that workbooks have.
EXACT = 2**53


def main() -> None:
    """Prints ``{"sheet", "sheets"}``, then each row.

    Standard input has a line of ``{"path", "sys_path", "memory"}``, and after it the workbook if ``path`` is null.
    """
    request = json.loads(sys.stdin.buffer.readline())
    sys.path.extend(request["sys_path"])
    _limit_memory(request["memory"])
    try:
        if request["path"] is None:
            _print_sheet(io.BytesIO(sys.stdin.buffer.read()))
        else:
            with open(request["path"], "rb") as file:
                _print_sheet(file)
    except BaseException as error:  # a panic of the parser is no Exception
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _print_sheet(file: BinaryIO) -> None:
    import python_calamine

    with python_calamine.CalamineWorkbook.from_filelike(file) as workbook:
        names = _worksheets(workbook)
        for name in names:
            sheet = workbook.get_sheet_by_name(name)
            if sheet.height:
                print(json.dumps({"sheet": name, "sheets": len(names)}))
                for row in sheet.iter_rows():
                    print(json.dumps([_plain(cell) for cell in row]))
                return
    print(json.dumps({"sheet": None, "sheets": len(names)}))


def _worksheets(workbook: Any) -> list[str]:
    """Names of the sheets with cells: the visible ones, then the others."""
    import python_calamine

    sheets = [each for each in workbook.sheets_metadata if each.typ == python_calamine.SheetTypeEnum.WorkSheet]
    visible = python_calamine.SheetVisibleEnum.Visible
    return [each.name for each in sorted(sheets, key=lambda each: each.visible != visible)]


def _plain(cell: Any) -> Any:
    """A cell as JSON has it: whole numbers as integers, times as ISO text, None where it is empty or an error."""
    if isinstance(cell, str):
        return cell or None
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) <= EXACT else cell
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    return str(cell) if isinstance(cell, datetime.timedelta) else cell


if __name__ == "__main__":
    main()

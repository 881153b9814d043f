"""A folder of CSV files with the tables and columns of NASSCO's PACP 7 exchange database, for North America.

    PACP_Inspections.csv        the inspection
    PACP_Conditions.csv         an observation a line
    PACP_Media_Inspections.csv  its video
    PACP_Media_Conditions.csv   a picture a line

UTF-8, a header line with the database's names of columns, our own, `OWN_COLUMNS`, after them. Distances are in metres,
as `IsImperial` = 0 says. What is not known is empty: no code, no pipe segment, no metre is made up.

`InspectionID` must be a number. It follows from the video's content, so the folders of several inspections can be
loaded into one database: two of 10,000 share one with a probability of 2 %, which a database's key then refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from serving.formats.csv_rows import write_rows
from serving.formats.observation import OWN_COLUMNS, UNREVIEWED, Observation, Origin, inspection_remark

FOLDER = "pacp"

INSPECTIONS, CONDITIONS = "PACP_Inspections.csv", "PACP_Conditions.csv"
MEDIA_INSPECTIONS, MEDIA_CONDITIONS = "PACP_Media_Inspections.csv", "PACP_Media_Conditions.csv"
FILES = tuple(f"{FOLDER}/{name}" for name in (INSPECTIONS, CONDITIONS, MEDIA_INSPECTIONS, MEDIA_CONDITIONS))

_INSPECTION_COLUMNS = (
    "InspectionID",
    "Surveyed_By",
    "Certificate_Number",
    "Inspection_Date",
    "Inspection_Time",
    "Pipe_Segment_Reference",
    "Upstream_MH",
    "Downstream_MH",
    "Direction",
    "Total_Length",
    "Length_Surveyed",
    "Media_Label",
    "IsImperial",
    "Additional_Info",
    "review_state",
    "operating_point",
    "threshold",
    "pair",
    "pair_version",
    "video_sha256",
)
_CONDITION_COLUMNS = (
    "ConditionID",
    "InspectionID",
    "Distance",
    "Counter",
    "PACP_Code",
    "Continuous",
    "Value_1st_Dimension",
    "Value_2nd_Dimension",
    "Value_Percent",
    "Joint",
    "Clock_At_From",
    "Clock_To",
    "Remarks",
    "VCR_Time",
    *OWN_COLUMNS,
)
_MEDIA_INSPECTION_COLUMNS = ("MediaInspectionID", "InspectionID", "Video_Name", "Video_Location", "video_sha256")
_MEDIA_CONDITION_COLUMNS = ("MediaConditionID", "ConditionID", "Image_Reference", "Image_Path", "video_sha256")

_LARGEST_ID = 2**31 - 1  # Access's Long Integer


def write_pacp(folder: Path, origin: Origin, observations: Sequence[Observation]) -> None:
    """Write one inspection into `folder`, whose pictures lie in the folder above."""
    inspection_id = inspection_id_of(origin.video_sha256)
    numbered = list(enumerate(observations, start=1))
    # Where the video lies is left open: it is not part of what is handed over, and moves.
    video = {"MediaInspectionID": inspection_id, "InspectionID": inspection_id, "Video_Name": origin.video}
    write_rows(folder / INSPECTIONS, _INSPECTION_COLUMNS, [_inspection(inspection_id, origin, len(observations))])
    write_rows(folder / CONDITIONS, _CONDITION_COLUMNS, (_condition(inspection_id, n, each) for n, each in numbered))
    write_rows(folder / MEDIA_INSPECTIONS, _MEDIA_INSPECTION_COLUMNS, [video | {"video_sha256": origin.video_sha256}])
    write_rows(folder / MEDIA_CONDITIONS, _MEDIA_CONDITION_COLUMNS, (_picture(n, each) for n, each in numbered))


def inspection_id_of(video_sha256: str) -> int:
    """A number from 1 to 2**31 - 1 for a video, the same wherever and whenever it is scored."""
    return int(video_sha256, 16) % _LARGEST_ID + 1


def _inspection(inspection_id: int, origin: Origin, n_findings: int) -> dict[str, Any]:
    return {
        "InspectionID": inspection_id,
        "Media_Label": origin.video,
        "IsImperial": 0,
        "Additional_Info": inspection_remark(origin, n_findings),
        "review_state": UNREVIEWED,
        "operating_point": origin.operating_point,
        "threshold": origin.threshold,
        "pair": origin.pair,
        "pair_version": origin.pair_version,
        "video_sha256": origin.video_sha256,
    }


def _condition(inspection_id: int, number: int, observation: Observation) -> dict[str, Any]:
    values = asdict(observation)
    return {
        "ConditionID": number,
        "InspectionID": inspection_id,
        "Distance": observation.distance_m,
        "Counter": int(observation.frame_pts_s),
        "PACP_Code": observation.code,
        "Continuous": observation.continuous,
        "Value_1st_Dimension": observation.quantity,
        "Joint": observation.at_joint,
        "Clock_At_From": observation.clock_from,
        "Clock_To": observation.clock_to,
        "Remarks": observation.remark,
        "VCR_Time": observation.video_time,
        **{column: values[column] for column in OWN_COLUMNS},
    }


def _picture(number: int, observation: Observation) -> dict[str, Any]:
    return {
        "MediaConditionID": number,
        "ConditionID": number,
        "Image_Reference": observation.photo,
        "Image_Path": str(PurePosixPath("..") / observation.photo),
        "video_sha256": observation.video_sha256,
    }

"""The 17 Sewer-ML defect classes, worked into the wall of a pipe."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator

from training.simulator.defects import connections, deposits, structural
from training.simulator.defects.site import Site
from training.simulator.noise import ROWS_PER_RADIUS
from training.simulator.wall import Wall
from training.simulator.world import Defect, PipeWorld

PLACERS: dict[str, Callable[[Site, Generator], None]] = {
    "RB": structural.crack,
    "OB": structural.surface_damage,
    "PF": structural.production_error,
    "DE": structural.deformation,
    "FS": structural.displaced_joint,
    "IS": deposits.intruding_sealing,
    "RO": deposits.roots,
    "IN": deposits.infiltration,
    "AF": deposits.settled_deposits,
    "BE": deposits.attached_deposits,
    "FO": deposits.obstacle,
    "GR": connections.branch_pipe,
    "PH": connections.chiselled_connection,
    "PB": connections.drilled_connection,
    "OS": connections.reinstatement_cut,
    "OP": connections.transition_profile,
    "OK": connections.construction_change,
}
# No defect reaches further along the pipe from its middle than this.
REACH_RADII = 5.2


def place_defect(wall: Wall, world: PipeWorld, defect: Defect) -> None:
    """Work one defect into `wall`, in place; what it looks like depends on the defect's own seed alone."""
    row = defect.distance_m / world.radius_m * ROWS_PER_RADIUS
    reach = REACH_RADII * ROWS_PER_RADIUS
    if wall.first_row - reach < row < wall.first_row + wall.rows + reach:
        site = Site(wall=wall, world=world, defect=defect)
        PLACERS[defect.code](site, Generator().manual_seed(defect.seed))

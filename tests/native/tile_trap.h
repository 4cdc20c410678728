// Runs AMX's instructions on processors without them, so that the compiled code can be tested.
#pragma once

// From here on the software model of the tiles executes each tile instruction that the processor refuses. Returns
// false where that is not implemented.
bool trap_tile_instructions();

#pragma once
// Checkpoints, whole: named tensors to a folder and back, under any mapping. What a checkpoint holds is in content.hpp, how it lies on the disk in folder.hpp and
// manifest.hpp.
//
//   content (this rank's pieces) --save.hpp--> DIR/step-00000200/ --load.hpp--> content (other ranks', other pieces)
#include <moefold/checkpoint/load.hpp>
#include <moefold/checkpoint/save.hpp>

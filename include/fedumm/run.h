#pragma once

#include <memory>
#include <string>

#include "fedumm/fab.h"
#include "fedumm/record.h"

namespace fedumm {

struct RunOptions {
  std::string fab_id = "fedumm/app";
  std::string fab_version = "1.0.0";
  ConfigRecord run_config;  // scalars only; nodes read it as the run's override_config
  // For Python nodes, which run the ClientApp in it; null: the nodes bring their own. Its id and
  // version take the place of `fab_id` and `fab_version`.
  std::shared_ptr<const Fab> fab;
};

}  // namespace fedumm

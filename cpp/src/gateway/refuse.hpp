// How the gateway says no: the code goes over the control connection, the text beside it.
#pragma once

#include <string>

#include "rdmaorder/error.hpp"

namespace rdmaorder::gateway {

[[noreturn]] inline void refuse(const char* code, const std::string& text) {
  throw Error(ErrorKind::kRefused, text, 0, code);
}

}  // namespace rdmaorder::gateway

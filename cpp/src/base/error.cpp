#include "rdmaorder/error.hpp"

#include <cstring>

namespace rdmaorder {

void throw_errno(const std::string& operation, const std::string& object, int error_number,
                 const std::string& remedy) {
  std::string message = operation + " " + object + ": " + std::strerror(error_number);
  if (!remedy.empty()) message += "; " + remedy;
  throw Error(ErrorKind::kSystem, message, error_number);
}

}  // namespace rdmaorder

// Included before everything else in ThreadSanitizer builds by GCC before 12, whose sanitizer does
// not know pthread_cond_clockwait: it takes the mutex for held while a condition is waited for, and
// reports a double lock. Without it the library waits by pthread_cond_timedwait.
#pragma once

#include <bits/c++config.h>

#undef _GLIBCXX_USE_PTHREAD_COND_CLOCKWAIT

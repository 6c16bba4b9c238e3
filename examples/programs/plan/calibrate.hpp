#pragma once
#include <string>

/// Measures this machine, says what it finds, writes it as a cluster file unless path is empty, and holds predicted against measured steps. The exit code.
int calibrate(const std::string& path);

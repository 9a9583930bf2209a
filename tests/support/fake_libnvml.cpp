// A libnvidia-ml.so.1 with one GPU, that of fake_libcuda.cpp, which takes 100 W: lets the real nvidia-ml-py run.
#include <chrono>
#include <cstdlib>
#include <cstring>

extern "C" {
int nvmlInitWithFlags(unsigned) { return 0; }
const char* nvmlErrorString(int) { return "Not Supported"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
    static int gpu;
    return *device = &gpu, std::strcmp(id, "0000:41:00.0") == 0 ? 0 : 6;
}
int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
    if (std::getenv("FAKE_NVML_OLD")) return 3;  // boards before Volta have no such counter
    const std::chrono::duration<double> since = std::chrono::steady_clock::now().time_since_epoch();
    return *millijoules = static_cast<unsigned long long>(100e3 * since.count()), 0;
}
}

// A libcuda.so.1 whose device is the CPU: memory is the host's, streams work at once or record while captured, a
// "cubin" is the path of a kernel library that g++ made behind cpu_shim.h. It lets real bindings of the driver run, so
// that what they are called with is proven; it says nothing of a GPU. Kernels must take one struct by value.
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

using Result = int;
using Work = std::function<void()>;
constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
                 NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, UNSUPPORTED_IN_CAPTURE = 900;

namespace {
struct Stream {
    bool capturing = false;
    std::vector<Work> recorded;
};
using Launch = void (*)(const unsigned* grid, unsigned threads, const void* parameters);
struct Kernel {
    Launch launch;
    unsigned size;  // of its struct
};
struct Event {
    unsigned flags;
    std::chrono::steady_clock::time_point at;
};
const uint64_t total = std::getenv("FAKE_CUDA_MEMORY") ? std::strtoull(std::getenv("FAKE_CUDA_MEMORY"), nullptr, 10) : 1ull << 30;
uint64_t used = 0;
std::map<uint64_t, size_t> allocations;
thread_local std::vector<void*> contexts;
int graphs = 0, captures = 0;  // graphs that were not destroyed, streams in capture
int context;

Stream& stream_of(void* handle) {
    static Stream legacy;
    return handle ? *static_cast<Stream*>(handle) : legacy;
}

Result put(void* handle, Work work) {
    Stream& stream = stream_of(handle);
    if (stream.capturing) stream.recorded.push_back(std::move(work));
    else work();
    return SUCCESS;
}
}  // namespace

extern "C" {
Result cuInit(unsigned) { return SUCCESS; }
Result cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int* device, int index) { return *device = index, index == 0 ? SUCCESS : INVALID_VALUE; }
Result cuDeviceGetName(char* name, int length, int) { return std::strncpy(name, "Fake GPU", length), SUCCESS; }
Result cuDeviceGetPCIBusId(char* id, int length, int) { return std::strncpy(id, "0000:41:00.0", length), SUCCESS; }
Result cuDeviceTotalMem(size_t* bytes, int) { return *bytes = total, SUCCESS; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 9 : 0;  // compute capability 9.0: 75 is the major number's, 76 the minor's
    return SUCCESS;
}
Result cuDevicePrimaryCtxRetain(void** made, int) { return *made = &context, SUCCESS; }
Result cuDevicePrimaryCtxRelease(int) { return SUCCESS; }
Result cuCtxPushCurrent(void* pushed) { return contexts.push_back(pushed), SUCCESS; }
Result cuCtxPopCurrent(void** popped) {
    if (contexts.empty()) return INVALID_VALUE;
    *popped = contexts.back();
    contexts.pop_back();
    return SUCCESS;
}
Result cuMemGetInfo(size_t* free, size_t* all) { return *free = total - used, *all = total, SUCCESS; }
Result cuMemAlloc(uint64_t* address, size_t size) {
    if (used + size > total) return OUT_OF_MEMORY;
    void* memory = std::aligned_alloc(256, (size + 255) / 256 * 256);
    std::memset(memory, 0xFF, size);
    *address = reinterpret_cast<uint64_t>(memory);
    allocations[*address] = size;
    return used += size, SUCCESS;
}
Result cuMemFree(uint64_t address) {
    if (contexts.empty()) return INVALID_CONTEXT;
    if (captures) return UNSUPPORTED_IN_CAPTURE;
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    used -= found->second;
    allocations.erase(found);
    return std::free(reinterpret_cast<void*>(address)), SUCCESS;
}
Result cuMemAllocHost(void** address, size_t size) { return *address = std::malloc(size), SUCCESS; }
Result cuMemHostAlloc(void** address, size_t size, unsigned) { return cuMemAllocHost(address, size); }
Result cuMemFreeHost(void* address) { return std::free(address), SUCCESS; }
Result cuStreamCreate(void** made, unsigned flags) { return *made = new Stream, flags == 1 ? SUCCESS : INVALID_VALUE; }
Result cuStreamDestroy(void* stream) { return delete static_cast<Stream*>(stream), SUCCESS; }
Result cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
Result cuStreamSynchronize(void* stream) { return stream_of(stream).capturing ? UNSUPPORTED_IN_CAPTURE : SUCCESS; }
Result cuEventCreate(void** made, unsigned flags) { return *made = new Event{flags, {}}, SUCCESS; }
Result cuEventDestroy(void* event) { return delete static_cast<Event*>(event), SUCCESS; }
Result cuEventRecord(void* event, void* stream) {
    return put(stream, [=] { static_cast<Event*>(event)->at = std::chrono::steady_clock::now(); });
}
Result cuEventSynchronize(void*) {
    if (std::getenv("FAKE_CUDA_FAULT")) return ILLEGAL_ADDRESS;
    const char* wait = std::getenv("FAKE_CUDA_WAIT_MS");
    if (wait) std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(wait)));
    return SUCCESS;
}
Result cuEventElapsedTime(float* ms, void* start, void* stop) {
    constexpr unsigned without_time = 2;
    if ((static_cast<Event*>(start)->flags | static_cast<Event*>(stop)->flags) & without_time) return INVALID_HANDLE;
    *ms = std::chrono::duration<float, std::milli>(static_cast<Event*>(stop)->at - static_cast<Event*>(start)->at).count();
    return SUCCESS;
}
Result cuMemcpyHtoDAsync(uint64_t to, const void* from, size_t size, void* stream) {
    return put(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), from, size); });
}
Result cuMemcpyDtoHAsync(void* to, uint64_t from, size_t size, void* stream) {
    return put(stream, [=] { std::memcpy(to, reinterpret_cast<void*>(from), size); });
}
Result cuMemcpyDtoDAsync(uint64_t to, uint64_t from, size_t size, void* stream) {
    return put(stream, [=] { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), size); });
}
Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void* stream) {
    return put(stream, [=] { std::memset(reinterpret_cast<void*>(to), value, size); });
}
Result cuModuleLoadData(void** module, const void* image) {
    *module = dlopen(static_cast<const char*>(image), RTLD_NOW);
    return *module ? SUCCESS : NOT_FOUND;
}
Result cuModuleUnload(void*) { return SUCCESS; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    void* launch = dlsym(module, (std::string(name) + "_launch").c_str());
    void* size = dlsym(module, (std::string(name) + "_size").c_str());
    if (!launch || !size) return NOT_FOUND;
    *function = new Kernel{reinterpret_cast<Launch>(launch), *static_cast<unsigned*>(size)};
    return SUCCESS;
}
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned, void* stream, void** parameters, void**) {
    if (gz != 1 || by != 1 || bz != 1 || !parameters) return INVALID_VALUE;
    const Kernel kernel = *static_cast<Kernel*>(function);
    std::string copy(static_cast<const char*>(parameters[0]), kernel.size);  // as the driver does: the caller may free them after the call
    return put(stream, [=] {
        const unsigned grid[2] = {gx, gy};
        kernel.launch(grid, bx, copy.data());
    });
}
Result cuStreamBeginCapture(void* stream, int) {
    if (stream_of(stream).capturing) return UNSUPPORTED_IN_CAPTURE;
    stream_of(stream).recorded.clear();
    ++captures;
    return stream_of(stream).capturing = true, SUCCESS;
}
Result cuStreamEndCapture(void* stream, void** graph) {
    if (!stream_of(stream).capturing) return INVALID_VALUE;
    stream_of(stream).capturing = false;
    --captures, ++graphs;
    return *graph = new std::vector<Work>(stream_of(stream).recorded), SUCCESS;
}
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return *executable = new std::vector<Work>(*static_cast<std::vector<Work>*>(graph)), SUCCESS;
}
Result cuGraphLaunch(void* executable, void* stream) {
    if (stream_of(stream).capturing) return UNSUPPORTED_IN_CAPTURE;
    for (Work& work : *static_cast<std::vector<Work>*>(executable)) work();
    return SUCCESS;
}
Result cuGraphDestroy(void* graph) { return --graphs, delete static_cast<std::vector<Work>*>(graph), SUCCESS; }
Result cuGraphExecDestroy(void* graph) { return delete static_cast<std::vector<Work>*>(graph), SUCCESS; }
int fake_graphs() { return graphs; }
Result cuGetErrorName(Result, const char** text) { return *text = "FAKE_ERROR", SUCCESS; }
Result cuGetErrorString(Result, const char** text) { return *text = "an error of the fake driver", SUCCESS; }

Result cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, void* status) {
    Dl_info here;
    dladdr(reinterpret_cast<void*>(&cuInit), &here);
    static void* library = dlopen(here.dli_fname, RTLD_NOW);
    *function = std::string(name) == "cuGetProcAddress" ? reinterpret_cast<void*>(&cuGetProcAddress_v2) : dlsym(library, name);
    if (status) *static_cast<int*>(status) = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
}

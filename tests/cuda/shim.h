// Runs CUDA kernels on the CPU: every thread of a block is a fiber, which gives way wherever threads wait for each other.
//
// Only g++ reads this file. What the hardware leaves undefined is an error here: a warp operation that not all lanes of
// the mask reach at the same place, a barrier that not all threads reach, threads that wait for ever. Shared memory
// holds garbage when a block begins.

#include <sanitizer/asan_interface.h>
#include <ucontext.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)

struct Dimensions {
    unsigned x = 1, y = 1, z = 1;
};

constexpr unsigned SHARED_WORDS = 57 * 1024;  // 228 KB, as much as any GPU has
alignas(16) unsigned shared[SHARED_WORDS];

namespace shim {

constexpr unsigned LANES = 32, MOST_THREADS = 1024, STACK_BYTES = 64 * 1024;

enum Schedule : unsigned { ASCENDING, DESCENDING };  // other numbers are seeds of random orders

// The operation that the lanes of a warp take part in. The next one may begin while some have not yet left this one,
// but not the one after it: two sets of values are enough.
struct Warp {
    unsigned arrived = 0, mask = 0, number = 0;
    int line = 0;
    unsigned long long values[2][LANES];
};

// A stack and where on it to go on.
struct Context {
    ucontext_t beginning;
    jmp_buf here;
    bool begun = true;
};

// Stop in one context and go on in another. What the system offers asks the kernel for a mask of signals every time,
// so it is used for the first step on a stack only; the address sanitizer understands nothing else.
inline void change(Context& from, Context& to) {
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&from.beginning, &to.beginning);
#else
    if (_setjmp(from.here) != 0) return;
    if (to.begun) _longjmp(to.here, 1);
    to.begun = true;
    setcontext(&to.beginning);
#endif
}

enum Event { YIELDED, ENDED, FAILED };

struct Thread {
    Context context;
    std::unique_ptr<char[]> stack;
    Event event;
    Dimensions index;
    unsigned number = 0;
    Warp* warp = nullptr;
};

inline Thread threads[MOST_THREADS];
inline Warp warps[MOST_THREADS / LANES];
inline Thread* current;
inline Dimensions block, blocks, block_size;
inline unsigned shared_bytes;
inline unsigned living, waiting, barrier_number;
inline int barrier_line;
inline unsigned long long progress;  // counts what lets threads go on
inline Context scheduler;
inline char message[256];
inline void (*body)(void*);
inline void* body_argument;

// Give way to the scheduler, which may come back.
inline void leave(Event event) {
    current->event = event;
    change(current->context, scheduler);
}

template <class... Arguments>
void fail(const char* format, Arguments... arguments) {
    const int used = snprintf(message, sizeof message, "block %u, thread %u: ", block.x, current->number);
    snprintf(message + used, sizeof message - used, format, arguments...);
    leave(FAILED);
}

inline void run_thread() {
    body(body_argument);
    leave(ENDED);
}

// Hand in a value and return those of all lanes in the mask, once all of them have come to this line.
inline const unsigned long long* gather(unsigned mask, unsigned long long value, int line) {
    Warp& warp = *current->warp;
    const unsigned lane = current->number % LANES, number = warp.number;
    if ((mask >> lane & 1) == 0) fail("line %d: the mask leaves out the thread itself", line);
    if (warp.arrived == 0) {
        warp.mask = mask;
        warp.line = line;
    }
    if (warp.line != line) fail("lanes of a warp meet in different operations, lines %d and %d", warp.line, line);
    if (warp.mask != mask) fail("line %d: lanes of a warp disagree about the mask", line);
    if (warp.arrived >> lane & 1) fail("line %d: a lane takes part twice", line);
    warp.values[number % 2][lane] = value;
    warp.arrived |= 1u << lane;
    progress++;
    if (warp.arrived == mask) {
        warp.arrived = 0;
        warp.number++;
    }
    while (warp.number == number) leave(YIELDED);
    return warp.values[number % 2];
}

inline void wait_for_block(int line) {
    const unsigned number = barrier_number;
    if (waiting == 0) barrier_line = line;
    if (barrier_line != line) fail("threads wait at different barriers, lines %d and %d", barrier_line, line);
    progress++;
    if (++waiting == living) {
        waiting = 0;
        barrier_number++;
    }
    while (barrier_number == number) leave(YIELDED);
}

inline unsigned long long random(unsigned long long& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

inline void start(Thread& thread, unsigned number) {
    if (!thread.stack) thread.stack.reset(new char[STACK_BYTES]);
    ucontext_t& beginning = thread.context.beginning;
    getcontext(&beginning);
    beginning.uc_stack.ss_sp = thread.stack.get();
    beginning.uc_stack.ss_size = STACK_BYTES;
    beginning.uc_link = nullptr;
    makecontext(&beginning, run_thread, 0);
    thread.context.begun = false;
    thread.event = YIELDED;
    thread.index = {number, 0, 0};
    thread.number = number;
    thread.warp = &warps[number / LANES];
}

inline bool run_block(unsigned schedule, unsigned long long& seed) {
    const unsigned count = block_size.x;
    std::vector<unsigned> order(count);
    for (unsigned i = 0; i < count; i++) {
        start(threads[i], i);
        order[i] = schedule == DESCENDING ? count - 1 - i : i;
    }
    for (Warp& warp : warps) warp = Warp();
    for (unsigned i = 0; i < shared_bytes / 4; i++) shared[i] = unsigned(random(seed));
    living = count;
    waiting = 0;
    while (living > 0) {
        if (schedule > DESCENDING)
            for (unsigned i = count - 1; i > 0; i--) std::swap(order[i], order[random(seed) % (i + 1)]);
        const unsigned long long before = progress;
        for (const unsigned i : order) {
            if (threads[i].event == ENDED) continue;
            current = &threads[i];
            change(scheduler, current->context);
            if (current->event == FAILED) return false;
            if (current->event == ENDED) {
                progress++;
                if (--living > 0 && waiting == living) {
                    waiting = 0;
                    barrier_number++;
                }
            }
        }
        if (progress == before) {
            snprintf(message, sizeof message, "block %u: its threads wait for each other for ever", block.x);
            return false;
        }
    }
    return true;
}

// Run a kernel; arguments are addresses of values, as for cuLaunchKernel. Return whether all went well.
template <class... Parameters>
int launch(void (*kernel)(Parameters...), void** arguments, const unsigned* shape, unsigned schedule) {
    auto call = [&]<size_t... I>(std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
    };
    auto run = [&] { call(std::index_sequence_for<Parameters...>()); };
    body = [](void* it) { (*static_cast<decltype(run)*>(it))(); };
    body_argument = &run;
    blocks = {shape[0], 1, 1};
    block_size = {shape[1], 1, 1};
    message[0] = 0;
    shared_bytes = shape[2];
    if (block_size.x > MOST_THREADS || shared_bytes > sizeof shared) {
        snprintf(message, sizeof message, "a launch of %u threads, %u bytes of shared memory", shape[1], shape[2]);
        return 0;
    }
    ASAN_UNPOISON_MEMORY_REGION(shared, sizeof shared);
    ASAN_POISON_MEMORY_REGION(reinterpret_cast<char*>(shared) + shared_bytes, sizeof shared - shared_bytes);
    unsigned long long seed = 0x9E3779B97F4A7C15ull * (schedule + 1);
    bool good = true;
    for (unsigned i = 0; i < blocks.x && good; i++) {
        block = {i, 0, 0};
        good = run_block(schedule, seed);
    }
    return good;
}

}  // namespace shim

#define threadIdx (shim::current->index)
#define blockIdx (shim::block)
#define blockDim (shim::block_size)
#define gridDim (shim::blocks)

// The functions of CUDA that kernels use. A default argument says at which line they are called.

inline void __syncthreads(int line = __builtin_LINE()) { shim::wait_for_block(line); }

inline unsigned __ballot_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    const unsigned long long* const votes = shim::gather(mask, vote != 0, line);
    unsigned result = 0;
    for (unsigned lane = 0; lane < shim::LANES; lane++)
        if (mask >> lane & 1) result |= unsigned(votes[lane]) << lane;
    return result;
}

inline int __any_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    return __ballot_sync(mask, vote, line) != 0;
}

inline int __all_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    return __ballot_sync(mask, vote, line) == mask;
}

inline unsigned __shfl_sync(unsigned mask, unsigned value, int lane, int line = __builtin_LINE()) {
    const unsigned from = unsigned(lane) % shim::LANES;
    if ((mask >> from & 1) == 0) shim::fail("line %d: lane %u is not in the mask", line, from);
    return unsigned(shim::gather(mask, value, line)[from]);
}

inline unsigned __shfl_up_sync(unsigned mask, unsigned value, unsigned distance, int line = __builtin_LINE()) {
    const unsigned lane = shim::current->number % shim::LANES;
    return __shfl_sync(mask, value, int(lane < distance ? lane : lane - distance), line);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long bytes = low | (unsigned long long)high << 32;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++) result |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}

inline float __fmul_rn(float a, float b) { return a * b; }

template <class To, class From>
To shim_cast(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

inline unsigned __float_as_uint(float value) { return shim_cast<unsigned>(value); }
inline long long __double_as_longlong(double value) { return shim_cast<long long>(value); }

// EXPORT(name, kernel) makes a kernel callable from outside.
#define EXPORT(name, ...) \
    extern "C" int name(void** arguments, const unsigned* shape, unsigned schedule) { \
        return shim::launch(&__VA_ARGS__, arguments, shape, schedule); \
    }

extern "C" const char* shim_message() { return shim::message; }

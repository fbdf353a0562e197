// Runs a program given as data: in each step each thread does one thing to shared memory.
constexpr int CELLS = 3;

// actions (steps, threads): 0 nothing, 1 read, 2 write, 3 atomic, 4 barrier of the warp, 5 barrier
// of the block. cells (steps, threads): of which cell.
extern "C" __global__ void interpret(const int *actions, const int *cells, int steps, int *out)
{
    __shared__ int memory[CELLS];
    if (threadIdx.x < CELLS)
        memory[threadIdx.x] = 0;
    __syncthreads();
    int sum = 0;
    for (int step = 0; step < steps; step++) {
        const int place = step * blockDim.x + threadIdx.x, cell = cells[place];
        switch (actions[place]) {
            case 1: sum += memory[cell]; break;
            case 2: memory[cell] = step; break;
            case 3: atomicAdd(memory + cell, 1); break;
            case 4: __syncwarp(); break;
            case 5: __syncthreads(); break;
        }
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

//! A whole worker before a cluster whose faults a fuzzer chooses: order, exactly once, nothing left
//! behind. The model is `src/worker/hub/sim.rs`.

pub fn run(data: &[u8]) {
    memorystore_auth_proxy::fuzzing::simulate(data);
}

//! SCAN through a cluster that a fuzzer moves: every key that stays is returned, and it ends.
//! The model is `src/session/scan/world.rs`.

pub fn run(data: &[u8]) {
    memorystore_auth_proxy::fuzzing::scan_model(data);
}

//! All fuzz targets in one program, so that it is built once: `FUZZ_TARGET=name`. See README.md.
#![no_main]

mod admin;
mod config;
mod cursor;
mod google;
mod http;
mod hub;
mod inline;
mod introspect;
mod keys;
mod merge;
mod reply;
mod request;
mod scan;
mod simulation;
mod support;
mod topology;
mod value;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// A target fails by a panic.
type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 16] = [
    ("admin", admin::run),
    ("config", config::run),
    ("cursor", cursor::run),
    ("google", google::run),
    ("http", http::run),
    ("hub", hub::run),
    ("inline", inline::run),
    ("introspect", introspect::run),
    ("keys", keys::run),
    ("merge", merge::run),
    ("reply", reply::run),
    ("request", request::run),
    ("scan", scan::run),
    ("simulation", simulation::run),
    ("topology", topology::run),
    ("value", value::run),
];

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("FUZZ_TARGET is '{name}', and none of {}", names.join(" "));
            std::process::exit(2);
        }
    }
}

fuzz_target!(init: { let _ = CHOSEN.set(chosen()); }, |data: &[u8]| {
    CHOSEN.get().expect("init")(data);
});

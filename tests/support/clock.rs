//! A wall clock the test can set for one process, without touching the machine's.
//!
//! A small library, compiled here and named in `LD_PRELOAD`, adds an offset to what
//! `clock_gettime(CLOCK_REALTIME)` says; the monotonic clocks stay as they are, as they do when
//! somebody sets the time. The offset is read from a file, so it can change while the process runs.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);
static volatile int64_t *offset;

static void __attribute__((constructor)) begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("TEST_CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *map = mmap(0, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) offset = map;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    if (!real) begin();
    int result = real(id, ts);
    if (result == 0 && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) ts->tv_sec += *offset;
    return result;
}
"#;

/// The clock of a process that was started with [`WallClock::env`].
#[derive(Debug)]
pub struct WallClock {
    dir: TempDir,
}

impl WallClock {
    /// Compiles the library. The C compiler is the one the build needs anyway.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("clock-").expect("a temporary directory");
        let source = dir.path().join("clock.c");
        std::fs::write(&source, SOURCE).expect("source written");
        let clock = Self { dir };
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.library())
            .arg(&source)
            .arg("-ldl")
            .output()
            .expect("a C compiler");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        clock.set_offset(0);
        clock
    }

    /// What the process needs in its environment.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", self.library().display().to_string()),
            ("TEST_CLOCK_OFFSET", self.offset().display().to_string()),
        ]
    }

    /// The process's wall clock is this many seconds ahead from now on.
    pub fn set_offset(&self, seconds: i64) {
        use std::io::Write as _;
        // Written in place: the process has the file mapped.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.offset())
            .expect("the offset's file");
        file.write_all(&seconds.to_ne_bytes()).expect("offset written");
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("clock.so")
    }

    fn offset(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}

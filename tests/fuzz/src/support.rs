//! What targets share: choices from bytes, replies made of choices, bounds on memory.

use memorystore_auth_proxy::resp::encode;

/// Takes choices off a fuzzer's bytes. Used up, it says zero.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub fn is_spent(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn u64(&mut self) -> u64 {
        self.take(8).iter().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    /// A number below `n`, which is 256 at most for all of them to be likely.
    pub fn below(&mut self, n: usize) -> usize {
        let wide = if n > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (wide | usize::from(self.byte())) % n.max(1)
    }

    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    pub fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Up to `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        head
    }

    /// A few bytes, most often very few.
    pub fn word(&mut self) -> &'a [u8] {
        let n = usize::from(self.byte());
        self.take(if n < 224 { n % 9 } else { n % 64 })
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// How long each read is, from one number: the same cuts for the same number.
pub struct Cuts(u64);

impl Cuts {
    pub fn new(seed: u8) -> Self {
        Self(u64::from(seed))
    }

    pub fn next(&mut self) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (self.0 >> 33) as usize;
        // Single bytes above all: between CR and LF, behind a length.
        if n & 3 == 0 { 1 + (n >> 2) % 40 } else { 1 + (n >> 2) % 3 }
    }
}

/// Runs `f`, which may hold no more than `bytes` at once beyond what is held already.
#[track_caller]
pub fn within<T>(bytes: usize, f: impl FnOnce() -> T) -> T {
    let mut out = None;
    let used = allocation_counter::measure(|| out = Some(f()));
    let most = used.bytes_max;
    assert!(most <= bytes as u64, "{most} bytes were held at once, {bytes} are allowed");
    out.expect("ran")
}

/// A whole reply of choices, nested at most so deep.
pub fn reply(input: &mut Input<'_>, depth: usize, out: &mut Vec<u8>) {
    let kinds: &[u8] = if depth > 0 { b"$:+-_#,(=!*~%|" } else { b"$:+-_#,(=!" };
    match *input.pick(kinds) {
        b'$' if input.byte() % 8 == 0 => out.extend_from_slice(b"$-1\r\n"),
        b'$' => encode::bulk(out, input.word()),
        b':' if input.byte() % 4 == 0 => encode::integer(out, input.u64() as i64),
        b':' => encode::integer(out, i64::from(input.byte()) - 8),
        b'+' => encode::simple(out, &String::from_utf8_lossy(input.word())),
        b'-' => encode::error(out, &format!("ERR {}", String::from_utf8_lossy(input.word()))),
        b'_' => out.extend_from_slice(b"_\r\n"),
        b'#' => out.extend_from_slice(if input.bool() { b"#t\r\n" } else { b"#f\r\n" }),
        b',' => out.extend_from_slice(format!(",{}\r\n", f64::from(input.byte()) / 8.0).as_bytes()),
        b'(' => out.extend_from_slice(format!("({}\r\n", input.u64()).as_bytes()),
        b'=' => {
            let text = input.word();
            encode::header(out, b'=', text.len() as i64 + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
        b'!' => {
            let text = input.word();
            encode::header(out, b'!', text.len() as i64);
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
        b'*' if input.byte() % 8 == 0 => out.extend_from_slice(b"*-1\r\n"),
        kind => {
            let n = input.below(5);
            encode::header(out, kind, n as i64);
            let items = match kind {
                b'%' => 2 * n,
                b'|' => 2 * n + 1,
                _ => n,
            };
            (0..items).for_each(|_| reply(input, depth - 1, out));
        }
    }
}

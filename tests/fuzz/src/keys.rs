//! Where keys stand, over the whole table and over what servers tell: within the frame, the same by
//! every way of asking; slots by the plain definition; a command taken apart loses and doubles nothing.

use memorystore_auth_proxy::command::introspect::{self, Told};
use memorystore_auth_proxy::command::keys::{
    Args, KeyError, KeySlot, first_key, for_each_key, key_slot,
};
use memorystore_auth_proxy::command::learned::{Fact, Learned, Name};
use memorystore_auth_proxy::command::slot::{SLOTS, slot};
use memorystore_auth_proxy::command::spec::{Handler, Row};
use memorystore_auth_proxy::command::split::split;
use memorystore_auth_proxy::command::table::COMMANDS;
use memorystore_auth_proxy::command::{lookup, spec};
use memorystore_auth_proxy::resp::encode;
use memorystore_auth_proxy::resp::request::{Request, fill_args};
use memorystore_auth_proxy::resp::scan::{RequestScan, RequestScanner};

use crate::support::{Input, within};

/// The words by which keys are found, and numbers of keys.
const WORDS: [&[u8]; 24] = [
    b"STORE",
    b"storedist",
    b"GET",
    b"BY",
    b"LIMIT",
    b"KEYS",
    b"AUTH",
    b"AUTH2",
    b"COPY",
    b"STREAMS",
    b"COUNT",
    b"BLOCK",
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"01",
    b"18446744073709551616",
    b"OBJECT",
    b"DIGEST-VALUE",
    b"",
    b"WEIGHTS",
    b"MAXLEN",
];

const KEYS: [&[u8]; 6] = [b"{a}1", b"{a}2", b"b", b"{}c", b"d{", b"{a}1"];

/// CRC16/XMODEM, bit by bit.
fn plain_slot(key: &[u8]) -> u16 {
    let hashed = match key.iter().position(|&b| b == b'{') {
        Some(open) => match key[open + 1..].iter().position(|&b| b == b'}') {
            Some(len) if len > 0 => &key[open + 1..open + 1 + len],
            _ => key,
        },
        None => key,
    };
    let crc = hashed.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    crc % SLOTS
}

fn argument(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() % 4 {
        0 => input.word().to_vec(),
        1 | 2 => input.pick::<&[u8]>(&KEYS).to_vec(),
        _ => input.pick::<&[u8]>(&WORDS).to_vec(),
    }
}

fn arguments(row: &Row, input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut args: Vec<Vec<u8>> = row.name.split('|').map(|part| part.as_bytes().to_vec()).collect();
    let more = input.below(12);
    (0..more).for_each(|_| args.push(argument(input)));
    args
}

fn check_keys(row: &Row, args: &Request<'_>) {
    let mut keys = Vec::new();
    let outcome: Result<(), KeyError> = for_each_key(row, args, |at, _| keys.push(at));
    assert!(keys.iter().all(|&at| at > 0 && at < args.len()), "{}: {keys:?}", row.name);
    match first_key(row, args) {
        Ok(first) => {
            if outcome.is_ok() || !keys.is_empty() {
                assert_eq!(first, keys.first().copied());
            }
        }
        Err(error) => assert_eq!(outcome, Err(error)),
    }
    let mut slots: Vec<u16> = keys.iter().map(|&at| plain_slot(args.arg(at))).collect();
    slots.dedup();
    let expected = match slots[..] {
        [] => KeySlot::None,
        [one] => KeySlot::One(one),
        _ => KeySlot::Cross,
    };
    let got = within(0, || key_slot(row, args));
    match outcome {
        Ok(()) => assert_eq!(got, expected, "{}", row.name),
        // It may have seen two slots before it came to what is wrong.
        Err(_) => assert!(got == KeySlot::None || got == expected, "{}", row.name),
    }
}

fn check_split(request: &Request<'_>, name: &str) {
    let Some(split) = split(name, request) else {
        return;
    };
    let mut out = Vec::new();
    let ends = split.frames(request, &mut out);
    assert_eq!((ends.len(), ends.last()), (split.slots.len(), Some(&out.len())));
    let mut parts = Vec::new();
    let mut from = 0;
    for (part, end) in ends.into_iter().enumerate() {
        let frame = &out[from..end];
        let mut args = Vec::new();
        let scanned = RequestScanner::default().scan(frame, &mut args, usize::MAX);
        assert_eq!(scanned, Ok(RequestScan::Multibulk(frame.len())));
        let args: Vec<&[u8]> = args.iter().map(|a| a.of(frame)).collect();
        assert!(args[1..].iter().step_by(split.step).all(|key| slot(key) == split.slots[part]));
        parts.push(args[1..].to_vec().into_iter());
        from = end;
    }
    // Put together again, it is the command.
    let together: Vec<&[u8]> = split
        .part_of_key
        .iter()
        .flat_map(|&part| parts[usize::from(part)].by_ref().take(split.step).collect::<Vec<_>>())
        .collect();
    assert_eq!(together, request.args().skip(1).collect::<Vec<_>>());
    assert!(parts.into_iter().all(|rest| rest.len() == 0));
}

/// A row as a server may tell it.
fn learned(input: &mut Input<'_>) -> Option<&'static Row> {
    thread_local! {
        // Rows are for ever: they are counted.
        static ROWS: std::cell::RefCell<(Learned, u64)> = std::cell::RefCell::default();
    }
    let number = |input: &mut Input<'_>| i64::from(input.byte()) - 100;
    let mut reply = b"*1\r\n*10\r\n$1\r\nx\r\n:-2\r\n*1\r\n+write\r\n".to_vec();
    (0..3).for_each(|_| encode::integer(&mut reply, number(input)));
    reply.extend_from_slice(b"*0\r\n*0\r\n*1\r\n*4\r\n+begin_search\r\n*4\r\n+type\r\n");
    if input.bool() {
        reply.extend_from_slice(b"+index\r\n+spec\r\n*2\r\n+index\r\n");
        encode::integer(&mut reply, number(input));
    } else {
        reply.extend_from_slice(b"+keyword\r\n+spec\r\n*4\r\n+keyword\r\n");
        encode::bulk(&mut reply, input.pick::<&[u8]>(&WORDS));
        reply.extend_from_slice(b"+startfrom\r\n");
        encode::integer(&mut reply, number(input));
    }
    reply.extend_from_slice(b"+find_keys\r\n*4\r\n+type\r\n");
    let names = if input.bool() {
        reply.extend_from_slice(b"+range\r\n+spec\r\n*6\r\n");
        ["lastkey", "keystep", "limit"]
    } else {
        reply.extend_from_slice(b"+keynum\r\n+spec\r\n*6\r\n");
        ["keynumidx", "firstkey", "keystep"]
    };
    for name in names {
        encode::simple(&mut reply, name);
        encode::integer(&mut reply, number(input));
    }
    reply.extend_from_slice(b"*0\r\n");
    let told = introspect::read(&reply);
    assert!(matches!(told, Told::Command(_)), "{}", String::from_utf8_lossy(&reply));
    ROWS.with_borrow_mut(|(rows, used)| {
        *used += 1;
        if *used % 50_000 == 0 {
            *rows = Learned::default();
        }
        let name = Name::new(b"x", None)?;
        rows.tell(&name, told, 0);
        match rows.get(&name, 0) {
            Some(Fact::Row(row)) => Some(row),
            _ => None,
        }
    })
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let row: &Row = match usize::from(input.byte()) | usize::from(input.byte()) << 8 {
        n if n % 8 == 7 => match learned(&mut input) {
            Some(row) => row,
            None => return,
        },
        n => &COMMANDS[n / 8 % COMMANDS.len()],
    };
    let args = arguments(row, &mut input);
    let mut frame = Vec::new();
    encode::command(&mut frame, &args);
    let mut ranges = Vec::new();
    fill_args(&frame, &mut ranges);
    let request = Request::new(&frame, None, &ranges);
    assert_eq!(request.args().collect::<Vec<_>>(), args);
    assert_eq!(Args::len(&request), args.len());
    check_keys(row, &request);
    if row.handler == Handler::Split {
        check_split(&request, row.name);
    }
    for arg in &args {
        assert_eq!(slot(arg), plain_slot(arg));
        let found: Option<&spec::Row> = lookup::command(arg);
        assert!(found.is_none_or(|row| row.name.as_bytes().eq_ignore_ascii_case(arg)));
    }
}

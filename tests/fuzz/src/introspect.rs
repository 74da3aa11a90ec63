//! What servers say of commands: whatever it is, it becomes a bounded description or nothing, and what
//! is learned of it stays bounded.

use std::cell::RefCell;

use memorystore_auth_proxy::command::introspect::{MAX_NAME, Told, read};
use memorystore_auth_proxy::command::learned::{Fact, Learned, Name};

use crate::support::within;

thread_local! {
    static LEARNED: RefCell<(Learned, u64)> = RefCell::default();
}

pub fn run(reply: &[u8]) {
    let told = within(2048 * reply.len() + 64 * 1024, || read(reply));
    let Told::Command(description) = &told else {
        return;
    };
    let all = std::iter::once(description).chain(&description.subcommands);
    for d in all {
        assert!(!d.name.is_empty() && d.name.len() <= MAX_NAME && d.arity != 0);
        // Lower-casing may not lengthen it.
        assert!(d.keys.len() <= 17);
    }
    assert!(description.subcommands.len() <= 128);
    assert!(description.subcommands.iter().all(|d| d.subcommands.is_empty()));
    let Some(name) = Name::new(description.name.as_bytes(), None) else {
        return;
    };
    assert_eq!(name.as_bytes(), description.name.as_bytes());
    LEARNED.with_borrow_mut(|(learned, used)| {
        // Rows are for ever: they are counted.
        *used += 1;
        if *used % 20_000 == 0 {
            *learned = Learned::default();
        }
        learned.tell(&name, told.clone(), 0);
        match learned.get(&name, 0) {
            Some(Fact::Row(row)) if row.is_learned() => assert_eq!(row.name, description.name),
            Some(_) => {}
            None => panic!("what was told is not known"),
        }
    });
}

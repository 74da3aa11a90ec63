//! What a server cannot be asked: commands it does not have, passwords, and files that are wrong.

use proptest::prelude::*;

use super::password::Digest;
use super::selector::RuleError;
use super::*;
use crate::command::spec::{
    Access as KeyAccess, Begin, Find, Handler, KeyShape, KeySpec, RequestPolicy, ResponsePolicy,
    flag,
};

fn user(rules: &str) -> Arc<User> {
    let users = Users::parse(format!("user u {rules}").as_bytes()).expect("an ACL");
    users.get(b"u").expect("the user").clone()
}

const KEY_1: &[KeySpec] = &[KeySpec {
    begin: Begin::Index(1),
    find: Find::Range { last: 0, step: 1, limit: 0 },
    access: KeyAccess::Write,
}];
const UNKNOWN: &[KeySpec] =
    &[KeySpec { begin: Begin::Unknown, find: Find::Unknown, access: KeyAccess::Read }];

/// A command that a server told of.
fn learned(name: &'static str, flags: u32, keys: &'static [KeySpec]) -> &'static Row {
    Box::leak(Box::new(Row {
        name,
        arity: -1,
        flags,
        keys,
        request: RequestPolicy::Default,
        response: ResponsePolicy::Default,
        handler: Handler::Forward,
        since: "",
        shape: KeyShape::of(keys),
        container: false,
    }))
}

fn check(rules: &str, row: Option<&'static Row>, line: &str) -> Result<(), Denial> {
    let args: Vec<&str> = line.split(' ').collect();
    user(rules).check(row, &args[..])
}

#[test]
fn modules_commands_are_permitted_by_name_or_as_all_and_taken_away_by_category() {
    let set = learned("json.set", flag::WRITE, KEY_1);
    let open = learned("json.debug|open", flag::WRITE | flag::ADMIN, KEY_1);
    for (rules, row, want) in [
        ("+@all", set, true),
        ("-@all", set, false),
        ("+json.set", set, true),
        ("+JSON.SET", set, true),
        ("+json.set -@all", set, false),
        ("+@all -json.set", set, false),
        ("+@all -json.get", set, true),
        ("+@write", set, false),
        ("+@all -@write", set, false),
        ("+@all -@read", set, true),
        ("+@all -@write +json.set", set, true),
        ("+json.debug", open, true),
        ("+json.debug|open", open, true),
        ("+@all -json.debug", open, false),
        ("+@all -@dangerous", open, false),
    ] {
        let got = check(&format!("~* &* {rules}"), Some(row), "x k");
        assert_eq!(got.is_ok(), want, "{rules}: {got:?}");
    }
    // Subcommands that a newer server has of a container the table has.
    let newer = learned("config|invented", flag::ADMIN, &[]);
    for (rules, want) in
        [("+config", true), ("+config|get", false), ("+@all -config", false), ("+@all", true)]
    {
        assert_eq!(check(&format!("~* {rules}"), Some(newer), "config").is_ok(), want, "{rules}");
    }
}

#[test]
fn what_cannot_be_seen_is_refused_to_those_who_are_limited() {
    let plain = learned("m.plain", flag::WRITE, KEY_1);
    let hidden = learned("m.hidden", flag::READONLY, UNKNOWN);
    let movable = learned("m.movable", flag::WRITE | flag::MOVABLEKEYS, KEY_1);
    let keyless = learned("m.search", flag::READONLY, &[]);
    let nothing = learned("m.about", 0, &[]);
    let publishes = learned("m.publish", flag::PUBSUB, &[]);
    let key = Err(Denial::Key);
    for (rules, row, want) in [
        ("~a*", plain, Ok(())),
        ("~b*", plain, key),
        ("%R~a*", plain, key),
        ("~a*", hidden, key),
        ("%R~*", hidden, Ok(())),
        ("%W~*", hidden, key),
        ("~a*", movable, key),
        ("~*", movable, Ok(())),
        ("%R~* %W~a*", movable, key),
        ("~a*", keyless, key),
        ("%R~*", keyless, Ok(())),
        ("~a*", nothing, Ok(())),
        ("~*", publishes, Err(Denial::Channel)),
        ("~* &*", publishes, Ok(())),
    ] {
        assert_eq!(
            check(&format!("+@all {rules}"), Some(row), "x a1"),
            want,
            "{rules} {}",
            row.name
        );
    }
    for (rules, want) in [
        ("+@all ~* &*", Ok(())),
        ("+@all ~*", key),
        ("+@all ~a* &*", key),
        ("+@all -@admin ~* &*", Err(Denial::Command)),
        ("+no.body ~* &*", Ok(())),
        ("+@read ~* &*", Err(Denial::Command)),
    ] {
        assert_eq!(check(rules, None, "no.body a1"), want, "{rules}");
    }
}

#[test]
fn the_deny_list_finds_modules_commands_too() {
    let list = DenyList::parse("json.set, @admin,config").expect("a list");
    let has = |row| list.has(Some(row), &["x"][..]);
    assert!(has(learned("json.set", flag::WRITE, KEY_1)));
    assert!(!has(learned("json.get", flag::READONLY, KEY_1)));
    assert!(has(learned("m.admin", flag::ADMIN, &[])));
    assert!(has(learned("config|invented", 0, &[])));
    assert!(list.has(None, &["JSON.Set"][..]) && !list.has(None, &["json.get"][..]));
    assert!(!DenyList::default().has(None, &["json.set"][..]));
}

#[test]
fn passwords_are_as_redis_keeps_them() {
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let acl = format!(
        "user a on >secret\nuser b on #{hash}\nuser c on nopass\nuser d >secret\nuser e on"
    );
    let users = Users::parse(acl.as_bytes()).expect("an ACL");
    for (name, password, want) in [
        ("a", "secret", true),
        ("b", "secret", true),
        ("b", hash, false),
        ("a", "Secret", false),
        ("a", "", false),
        ("c", "anything", true),
        ("d", "secret", false),
        ("e", "", false),
        ("f", "secret", false),
        ("default", "anything", true),
    ] {
        let got = users.authenticate(name.as_bytes(), password.as_bytes());
        assert_eq!(got.is_some(), want, "{name} {password}");
    }
    assert!(!format!("{users:?}").contains("secret"));
    assert!(Digest::from_hex(&hash.as_bytes()[1..]).is_none());
    assert!(Digest::from_hex(hash.to_uppercase().as_bytes()).is_none());
    assert!(Users::parse(b"user a #abc").expect_err("no hash").contains("64 characters"));
    let gone = format!("user a on >one >secret <one !{hash}");
    assert!(Users::parse(gone.as_bytes()).expect("an ACL").authenticate(b"a", b"secret").is_none());
    assert_eq!(
        Users::parse(b"user a <one").expect_err("no such password"),
        format!("line 1: rule 1 of the user 'a': {}", RuleError::NoSuchPassword)
    );
    let one = Users::with_password(b"secret");
    assert!(!one.default_user().is_open() && one.default_user().is_unrestricted());
    assert!(one.authenticate(b"default", b"secret").is_some());
}

#[test]
fn a_file_that_does_not_name_default_leaves_it_everything() {
    let users = Users::parse(b"\n# Ours.\n  user a on >x\r\n").expect("an ACL");
    assert!(users.default_user().is_open() && users.default_user().is_unrestricted());
    let off = Users::parse(b"user default off").expect("an ACL");
    assert!(!off.default_user().is_open() && !off.default_user().is_unrestricted());
    assert!(user("on ~a* +@all").scripts_may_escape());
    assert!(!user("on ~a* +@all -@scripting").scripts_may_escape());
    assert!(!user("on ~* &* +@all").scripts_may_escape());
    assert!(user("~* &* (+@all ~* &*)").is_unrestricted());
    assert!(!user("~* &* +@all -get").is_unrestricted());
    assert_eq!(user("~* +@all reset"), user(""));
}

#[test]
fn sort_reads_what_its_patterns_name_only_with_all_keys() {
    let sort = facts::row_of("sort");
    for (rules, line, want) in [
        ("~l", "sort l by nosort", Ok(())),
        ("~l", "sort l limit 0 1 by w_*", Err(Denial::SortBy)),
        ("~l", "sort l alpha get #", Err(Denial::SortGet)),
        ("~l %R~*", "sort l by w_* get x", Ok(())),
        ("~l", "sort l by", Ok(())),
        ("~l ~w", "sort l store w by w_*", Err(Denial::SortBy)),
        ("~l", "sort l store w", Err(Denial::Key)),
    ] {
        assert_eq!(check(&format!("+@all {rules}"), sort, line), want, "{rules}: {line}");
    }
}

proptest! {
    /// Whatever stands in a file: users or a sentence, which repeats nothing of it.
    #[test]
    fn reading_is_total_and_discreet(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Users::parse(&content);
        let line = [b"user bob on secretword ", &content[..]].concat();
        let says = Users::parse(&line).expect_err("there is no such rule");
        prop_assert!(!says.contains("secretword"), "{}", says);
    }

    /// More rules of the kind that permits never refuse more.
    #[test]
    fn permitting_rules_only_permit(
        rules in proptest::collection::vec(proptest::sample::select(vec![
            "+get", "+@read", "+@write", "+set", "~a", "~b*", "%R~c", "%W~c", "&x", "+publish", "+sort", "+eval",
        ]), 0..8),
        more in proptest::sample::select(vec!["+@all", "+get", "~a*", "%R~b", "&x", "+@write", "+@pubsub"]),
        line in proptest::sample::select(vec![
            "get a", "get b1", "set c 1", "set a 1 get", "publish x 1", "sort a by w*", "eval x 1 a", "mget a b c",
        ]),
    ) {
        let row = facts::row_of(line.split(' ').next().unwrap_or_default());
        let before = check(&rules.join(" "), row, line);
        let after = check(&format!("{} {more}", rules.join(" ")), row, line);
        prop_assert!(before.is_err() || after.is_ok(), "{:?} {:?}", before, after);
    }
}

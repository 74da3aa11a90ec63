use super::*;

fn env(vars: &[(&str, &str)]) -> Environment {
    vars.iter().copied().collect()
}

fn run(args: &[&str], vars: &[(&str, &str)]) -> Result<Settings, String> {
    let argv = ["proxy"].iter().chain(args);
    match parse(argv, &env(vars)) {
        Ok(Request::Run(settings)) => Ok(settings),
        Ok(Request::Do(what, _)) => panic!("does {what:?}"),
        Ok(Request::Show(text)) => panic!("shows {text}"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than one line: {text}");
            Err(text)
        }
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn table_is_sound() {
    command().debug_assert();
    let mut names: Vec<_> = FLAGS.iter().map(|f| f.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FLAGS.len());
}

#[test]
fn flag_wins_over_env_over_file() {
    let file = file("port = 1\nthreads = 2\nquiet = true\naddress = \"::1\"");
    let path = file.path().to_str().unwrap();
    let vars = [
        ("MEMORYSTORE_PROXY_PORT", "3"),
        ("MEMORYSTORE_PROXY_THREADS", "4"),
        ("MEMORYSTORE_PROXY_QUIET", "0"),
        ("MEMORYSTORE_PROXY_ADDRESS", ""),
    ];
    let got = run(&["--config-file", path, "--port", "5", "h:1"], &vars).unwrap();
    let text = |name| got.get(name).map(|v| (v.text.as_str(), v.origin));
    assert_eq!(text("port"), Some(("5", Origin::Flag)));
    assert_eq!(text("threads"), Some(("4", Origin::Env)));
    assert_eq!(text("quiet"), Some(("0", Origin::Env)));
    assert_eq!(text("address"), Some(("::1", Origin::File)));
    assert_eq!(text("endpoint"), Some(("h:1", Origin::Flag)));
    assert_eq!(text("token"), None);
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let file = file("endpoint = [\"a:1\", \"b:2\"]\n");
    let path = file.path().to_str().unwrap();
    let got = run(&[], &[("MEMORYSTORE_PROXY_CONFIG_FILE", path)]).unwrap();
    assert_eq!(got.get("endpoint").unwrap().text, "a:1 b:2");
}

#[test]
fn several_instances_by_arguments_and_by_numbered_variables() {
    let vars = [
        ("MEMORYSTORE_PROXY_ENDPOINT_10", "d:1"),
        ("MEMORYSTORE_PROXY_ENDPOINT_2", "c:1"),
        ("MEMORYSTORE_PROXY_ENDPOINT", "a:1 b:1"),
    ];
    let endpoint = |args: &[&str], vars| run(args, vars).unwrap().get("endpoint").unwrap().clone();
    assert_eq!(endpoint(&[], &vars).text, "a:1 b:1 c:1 d:1");
    assert_eq!(endpoint(&[], &vars[..2]).text, "c:1 d:1");
    assert_eq!(endpoint(&["x:1", "y:1"], &vars).text, "x:1 y:1");
}

#[test]
fn switches_take_a_value_only_behind_an_equals_sign() {
    let on = run(&["--quiet", "h:1"], &[]).unwrap();
    assert_eq!(on.get("quiet").unwrap().text, "true");
    assert_eq!(on.get("endpoint").unwrap().text, "h:1");
    let off = run(&["--quiet=false"], &[]).unwrap();
    assert_eq!(off.get("quiet").unwrap().text, "false");
}

#[test]
fn wrong_command_lines() {
    for (args, says) in [
        (&["--prot", "1"][..], "did you mean '--port'"),
        (&["--zzz=secret"], "unknown flag '--zzz';"),
        (&["-x"], "unknown flag '-x'"),
        (&["--port"], "--port needs a value"),
        (&["--port", "1", "--port", "2"], "--port was given more than once"),
        (&["--config-file", "/nonexistent/x"], "cannot read the configuration file /nonexistent/x"),
    ] {
        let error = run(args, &[]).unwrap_err();
        assert!(error.contains(says), "{args:?}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn wrong_files() {
    for (text, says) in [
        ("prot = 1", "unknown key 'prot'"),
        ("config-file = \"x\"", "unknown key 'config-file'"),
        ("a = 1\ntoken = \"hush", "not valid TOML at line 2"),
        ("quiet = \"true\"", "without quotes"),
        ("unix-socket-mode = 0o660", "write it in quotes"),
        ("endpoint = [1]", "\"HOST:PORT\""),
        ("port = 1.5", "write a string or a number"),
        ("[port]", "write a string or a number"),
    ] {
        let file = file(text);
        let error = run(&["--config-file", file.path().to_str().unwrap()], &[]).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn strangers_in_the_environment_are_warned_about() {
    let vars = [
        ("MEMORYSTORE_PROXY_PROT", "hush"),
        ("MEMORYSTORE_PROXY_PORT", "tcp://10.0.0.1:6379"),
        ("MEMORYSTORE_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("OTHER", "x"),
    ];
    let got = run(&["h:1"], &vars).unwrap();
    assert!(got.get("port").is_none());
    let [warning] = &got.warnings[..] else { panic!("{:?}", got.warnings) };
    for name in ["PROXY_PROT", "PROXY_PORT", "SERVICE_HOST"] {
        assert!(warning.contains(name), "{warning}");
    }
    assert!(!warning.contains("hush") && !warning.contains("OTHER"), "{warning}");
}

#[test]
fn help_is_the_manual() {
    let Ok(Request::Show(help)) = parse(["proxy", "--help"], &env(&[])) else { panic!("no help") };
    // Whatever the width of the terminal, compare word by word.
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for flag in FLAGS {
        let name = match flag.kind {
            Kind::Positional(_) => "ENDPOINT".to_owned(),
            _ => format!("--{}", flag.name),
        };
        assert!(words.contains(&name), "{name} is missing");
        let variable = format!("[env: {}]", env_name(flag.name));
        assert!(words.contains(&variable), "{variable} is missing");
        assert!(words.contains(flag.group), "{} is missing", flag.group);
    }
    assert!(words.contains("[default: 6379]") && words.contains("Exit codes"));
}

#[test]
fn debug_shows_no_values() {
    let got = run(&["--token", "hush", "h:1"], &[]).unwrap();
    let debug = format!("{got:?}");
    assert!(debug.contains("token") && !debug.contains("hush"), "{debug}");
}

#[test]
fn subcommands_take_the_settings_of_the_proxy_and_their_own() {
    let does = |args: &[&str], vars: &[(&str, &str)]| match parse(
        ["proxy"].iter().chain(args),
        &env(vars),
    ) {
        Ok(Request::Do(what, settings)) => Ok((what, settings)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let vars = [("MEMORYSTORE_PROXY_HTTP_PORT", "7"), ("MEMORYSTORE_PROXY_ENDPOINT", "h:1")];
    let (what, settings) = does(&["wait", "--max", "2s"], &vars).unwrap();
    assert_eq!(what, Subcommand::Wait);
    assert_eq!(settings.get("max").unwrap().text, "2s");
    assert_eq!(settings.get("http-port").unwrap().text, "7");
    let (what, settings) = does(&["check", "--port=1", "i:1", "j:2"], &vars).unwrap();
    assert_eq!(what, Subcommand::Check);
    assert_eq!(settings.get("endpoint").unwrap().text, "i:1 j:2");
    let (what, settings) = does(&["completion", "zsh"], &[]).unwrap();
    assert_eq!(what, Subcommand::Completion);
    assert_eq!(settings.get("shell").unwrap().text, "zsh");
    assert!(does(&["shutdown", "--max=1s"], &[]).unwrap_err().contains("--max"));
    // An endpoint that has the name of none is an endpoint.
    assert!(run(&["waits:1"], &[]).is_ok());
}

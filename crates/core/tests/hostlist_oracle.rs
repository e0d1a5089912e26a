//! Slurm's own `scontrol` reads and writes the same hostlists as we do.
//!
//! `GANGWAY_WORLD_ENV` names the env file of a running world; `bin/scontrol` lies beside it.
//! All questions go to one `scontrol` over its standard input, so thousands cost about a second.
//! Lists with blanks in them, which it would take for several arguments, get a process each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gangway_core::hostlist::{Hostlist, Problem};

/// How many generated lists are compared.
const LISTS: usize = 2_500;

/// Written by hand: what a generator seldom meets.
const ODD: &[&str] = &[
    "n[1-2]-ib",
    "n[098-102]",
    "n[9-0010]",
    "n[1-03],n4",
    "n[10-012],n13",
    "n[0000000001-2]",
    "n1,n1",
    "n[2,1]",
    "n,n1,n2",
    "n1x,n2,n1,n",
    "n00,n0,n1,n01",
    "n099,n0100",
    "1,2,3",
    "[1-2]a",
    "n0[1-2],n03",
    "n1[9-10],n111",
    "a[1-2]b[3-4]c[5-6]d[7-8]e[1-2]",
    "a[1,5-6]b[3,2]c",
    "n[1-2]3[4-5]6",
    "n[1-2]03",
    "n[1][2][3]",
    "n[0-1]é",
    "é1,n1,Z1,_1",
    "r10n1,r9n1,r09n1,r010n1",
    "a1b02c,a1b2c,a1b10c",
    "x0.1y1,x0.02y1",
    "x00a,x0a",
    "a-1-1,a-1-2,a1-1",
    "n1.2,n1.3",
    "a,,b",
    ",a",
    "a,",
    ",",
    "n[1-2],,m",
    "n4294967295,n4294967296",
    "n[18446744073709551613-18446744073709551614]",
    "n[1-5],n[3-9],n[2-4]",
    "a=b",
    "(n[1-2])",
    "n[1-2",
    "n[",
    "[",
    "n[1]m[",
    "n[]",
    "[]",
    "n[,]",
    "n[1,]",
    "n[,1]",
    "n[1,,2]",
    "n[3-1]",
    "n[010-9]",
    "n[a]",
    "n[1a]",
    "n[-1]",
    "n[1-2-3]",
    "n[0x10-0x12]",
    "n[1;2]",
    "n]1[",
    "n[0-65536]",
    "n[0-9999999999]",
];

/// Lists with blanks in them.
const BLANKS: &[&str] = &["a b", " a, b", "a\nb\tc", " n[1-2] ,,x ", "n [1-2]", "n[1] x", " ", ""];

/// What Slurm accepts and we refuse on purpose; the table in `hostlist.rs` says why.
const REFUSED: &[(&str, Problem, &str)] = &[
    ("n[1-]", Problem::EmptyRange, "n1"),
    ("n[+1]", Problem::NotANumber, "n01"),
    ("n]", Problem::StrayBracket, "n]"),
    ("n[1]]", Problem::StrayBracket, "n1]"),
    ("n[[1]]", Problem::NestedBracket, "n[1]"),
    ("n[1,m[2]", Problem::NotANumber, "n[1,m2"),
    ("n[1[2]]", Problem::NestedBracket, "n[12]"),
    ("n[99999999999999999999]", Problem::NumberTooLarge, "n18446744073709551615"),
];

#[test]
fn scontrol_reads_and_writes_the_same_lists() {
    let Some(world) = World::find() else { return };
    let mut random = Random(0x6761_6e67_7761_7901);
    let mut lists: Vec<String> = ODD.iter().map(|&list| list.to_owned()).collect();
    lists.extend((0..LISTS).map(|_| random.list()));

    let read = world.ask(lists.iter().map(|list| format!("hostnames {list}")));
    let written = world.ask(lists.iter().map(|list| format!("hostlist {list}")));
    let mut accepted = vec![];
    for ((text, read), written) in lists.iter().zip(read).zip(written) {
        match Hostlist::parse(text) {
            Ok(list) => {
                assert_eq!(list.names(), lines(&read), "names of {text}");
                if !ends_in_bracket_and_digits(text) {
                    assert_eq!(list.to_string(), written.trim_end(), "folding of {text}");
                }
                accepted.push(list);
            }
            Err(error) => assert_eq!(read, "", "we refuse {text} ({error}), Slurm does not"),
        }
    }
    let refused = lists.len() - accepted.len();
    assert!(accepted.len() > 2_000 && refused > 100, "{} read, {refused} refused", accepted.len());

    // Now one name at a time, which is how lists are folded from what the API server says.
    let names: Vec<Vec<String>> = accepted
        .iter()
        .map(Hostlist::names)
        .filter(|names| (1..=100).contains(&names.len()))
        .collect();
    let folded = world.ask(names.iter().map(|names| format!("hostlist {}", names.join(","))));
    for (names, folded) in names.iter().zip(folded) {
        assert_eq!(Hostlist::from_names(names).unwrap().to_string(), folded.trim_end());
    }
    compare_sorting(&world, &names);
}

fn compare_sorting(world: &World, lists: &[Vec<String>]) {
    // Slurm sorts by a 32-bit difference: `n76010912997,n780109121000,n780109121001,n780109121000`
    // fills all memory. The limit in `World::run` is for the next such list.
    let small = |names: &&Vec<String>| names.iter().all(|name| split_digits(name).1.len() < 10);
    let lists: Vec<&Vec<String>> = lists.iter().filter(small).collect();
    let sorted = world.ask(lists.iter().map(|names| format!("hostlistsorted {}", names.join(","))));
    let mut exact = 0;
    for (names, theirs) in lists.into_iter().zip(sorted) {
        let ours = Hostlist::from_names(names).expect("they are names").sorted();
        if mixes_padding(names) {
            let theirs = Hostlist::parse(&theirs).expect("Slurm writes hostlists");
            assert_eq!(set(&ours), set(&theirs), "sorting {names:?}");
        } else {
            assert_eq!(ours.to_string(), theirs.trim_end(), "sorting {names:?}");
            exact += 1;
        }
    }
    assert!(exact > 1_000, "only {exact} sorted lists have one right answer");
}

#[test]
fn blanks_separate_names() {
    let Some(world) = World::find() else { return };
    for text in BLANKS {
        let read = world.run(&["show", "hostnames", text], "");
        assert_eq!(Hostlist::parse(text).unwrap().names(), lines(&read), "names of {text:?}");
    }
}

#[test]
fn we_refuse_what_slurm_makes_up() {
    let Some(world) = World::find() else { return };
    let read = world.ask(REFUSED.iter().map(|(text, ..)| format!("hostnames {text}")));
    for ((text, problem, names), read) in REFUSED.iter().zip(read) {
        assert_eq!(read.trim_end(), *names, "Slurm's reading of {text}");
        assert_eq!(Hostlist::parse(text).unwrap_err().problem, *problem, "{text}");
    }
}

#[test]
fn a_whole_cluster_reads_the_same() {
    let Some(world) = World::find() else { return };
    for text in ["node[00000-65535]", "r[0-255]n[0-255]", "gpu[1-300]-ib[0-1],login"] {
        let read = world.run(&["show", "hostnames", text], "");
        assert!(Hostlist::parse(text).unwrap().iter().eq(read.lines()), "names of {text}");
    }
}

/// `n[1-2]03`: Slurm leaves `n103,n203` unfolded when it has just read a bracket there, and folds
/// them when they come as names. We always fold.
fn ends_in_bracket_and_digits(text: &str) -> bool {
    text.split(']').skip(1).any(|tail| {
        let tail = tail.split([',', '[']).next().unwrap_or_default();
        tail.ends_with(|c: char| c.is_ascii_digit())
    })
}

fn set(list: &Hostlist) -> BTreeSet<String> {
    list.iter().collect()
}

/// Whether some prefix has padded numbers beside numbers of another width: Slurm sorts ranges, so
/// the order of such names depends on how they were folded before, and it may drop one of a
/// repeated name (`n0002,n999,n1000,n0002,n999,n1000` loses an `n0002`).
fn mixes_padding(names: &[String]) -> bool {
    let mut widths = BTreeMap::<&str, (bool, Vec<usize>)>::new();
    for name in names {
        let (prefix, digits) = split_digits(name);
        let (padded, seen) = widths.entry(prefix).or_default();
        *padded |= digits.len() > 1 && digits.starts_with('0');
        seen.push(digits.len());
    }
    widths.values().any(|(padded, seen)| *padded && seen.iter().any(|width| *width != seen[0]))
}

fn split_digits(name: &str) -> (&str, &str) {
    name.split_at(name.trim_end_matches(|c: char| c.is_ascii_digit()).len())
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

struct World {
    env: PathBuf,
}

impl World {
    /// The running world, if there is one. In CI there must be.
    #[expect(clippy::print_stdout, reason = "a test that skips says so")]
    fn find() -> Option<Self> {
        let env = std::env::var_os("GANGWAY_WORLD_ENV");
        assert!(
            env.is_some() || std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "GANGWAY_WORLD_ENV is not set, and CI does not skip"
        );
        if env.is_none() {
            println!("skipped: no Slurm to compare with (GANGWAY_WORLD_ENV is not set)");
        }
        env.map(|env| Self { env: env.into() })
    }

    /// Runs `scontrol` with the world's environment, and returns what it printed.
    fn run(&self, args: &[&str], input: &str) -> String {
        let scontrol = self.env.parent().unwrap_or_else(|| Path::new(".")).join("bin/scontrol");
        let mut child = Command::new("sh")
            .args(["-c", r#"ulimit -v 2000000; . "$0" && exec "$@""#])
            .args([&self.env, &scontrol])
            .args(args)
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start scontrol");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let mut output = vec![];
        std::thread::scope(|scope| {
            // A writer of its own: both pipes are smaller than what goes through them. When scontrol
            // dies half-way, the answers it did not give say at which list.
            scope.spawn(move || stdin.write_all(input.as_bytes()).ok());
            stdout.read_to_end(&mut output).expect("read from scontrol");
        });
        child.wait().expect("wait for scontrol");
        String::from_utf8(output).expect("scontrol writes UTF-8")
    }

    /// Asks one `scontrol` to `show` each of `questions`; answers in the same order.
    ///
    /// It echoes every command behind its prompt (long ones with cursor movements in between), and
    /// nothing it prints has a blank in it, so a line that starts with the prompt starts the next
    /// answer. Errors go to standard error.
    fn ask(&self, questions: impl Iterator<Item = String>) -> Vec<String> {
        let questions: Vec<String> = questions.collect();
        let mut input = String::new();
        for question in &questions {
            writeln!(input, "show {question}").expect("writing to a String");
        }
        let output = self.run(&[], &input);
        let mut answers = vec![];
        for line in output.lines() {
            if line.starts_with("scontrol: ") {
                answers.push(String::new());
            } else if let Some(answer) = answers.last_mut() {
                answer.push_str(line);
                answer.push('\n');
            }
        }
        let last = answers.len().saturating_sub(1);
        assert_eq!(last, questions.len(), "scontrol stopped at {:?}", questions.get(last));
        answers.truncate(last);
        answers
    }
}

/// SplitMix64: the same lists on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn list(&mut self) -> String {
        let entries = 1 + self.below(5);
        let mut list: Vec<String> = (0..entries).map(|_| self.entry()).collect();
        // Slurm says so of a list with a broken entry, whatever else is in it.
        if self.below(10) == 0 {
            let broken = self.pick(&["n[3-1]", "n[]", "n[1,]", "n[x]", "n[0-70000]", "n[1-2-3]"]);
            list.insert(self.below(entries + 1), broken.to_owned());
        }
        if self.below(8) == 0 {
            list.push(String::new());
        }
        if self.below(4) == 0 {
            list.push(list[0].clone());
        }
        // Left open, it must come last: Slurm would go on to the next bracket.
        if self.below(30) == 0 {
            list.push("n[1-2".to_owned());
        }
        list.join(",")
    }

    fn entry(&mut self) -> String {
        let mut entry = self
            .pick(&["n", "n", "n", "node", "gpu-a", "r1n", "r10n", "r09n", "N", "x.", ""])
            .to_owned();
        for _ in 0..[0, 0, 1, 1, 1, 2, 2, 3][self.below(8)] {
            let ranges: Vec<String> = (0..=self.below(3)).map(|_| self.range()).collect();
            write!(entry, "[{}]", ranges.join(",")).expect("writing to a String");
            entry += self.pick(&["", "", "", "n", "-ib", "0", "7x", ".a", "12"]);
        }
        if !entry.contains('[') {
            entry += &self.number();
        }
        if self.below(12) == 0 {
            entry += self.pick(&["a", "-b", "-1", "x2y"]);
        }
        entry
    }

    fn number(&mut self) -> String {
        let value = [self.below(12), self.below(120), 95 + self.below(10), 995 + self.below(10)]
            [self.below(4)];
        let width = [0, 0, 0, 2, 2, 3, 4][self.below(7)];
        format!("{value:0width$}")
    }

    fn range(&mut self) -> String {
        let lo = self.number();
        if self.below(3) == 0 {
            return lo;
        }
        let hi = lo.parse().unwrap_or(0) + self.below(7);
        let width = [0, lo.len(), lo.len()][self.below(3)];
        format!("{lo}-{hi:0width$}")
    }
}

use std::io::Write as _;

use super::{tail::PIECE, *};

struct Fixture {
    dir: tempfile::TempDir,
    follower: Follower,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("default_web-1_1234/app")).unwrap();
        let follower = Self::follower(dir.path(), Positions::new());
        Self { dir, follower }
    }

    fn follower(root: &Path, positions: Positions) -> Follower {
        let pods = Informer::detached();
        pods.insert(
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "default", "name": "web-1", "labels": {"app": "web"}}
            }))
            .unwrap(),
        );
        Follower { root: root.to_owned(), node: "n1".to_owned(), pods, positions, tails: HashMap::new(), lost: 0 }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("default_web-1_1234/app/0.log")
    }

    fn write(&self, lines: &[&str]) {
        let mut file = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        for line in lines {
            writeln!(file, "1970-01-01T00:00:01Z stdout {line}").unwrap();
        }
    }

    /// What is new, and the positions that are stored with it.
    fn read(&mut self) -> (Vec<String>, Positions) {
        let (mut lines, mut positions) = (Vec::new(), Positions::new());
        let mut paths = BTreeSet::from([PathBuf::new()]);
        while !paths.is_empty() {
            let pass = self.follower.pass(paths);
            lines.extend(pass.batch.entries.iter().map(|entry| entry.line.to_string()));
            for (path, position) in pass.batch.positions {
                match position {
                    Some(position) => drop(positions.insert(path, position)),
                    None => drop(positions.remove(&path)),
                }
            }
            paths = pass.more;
        }
        (lines, positions)
    }

    fn rotate(&self, time: &str) {
        fs::rename(self.log(), self.log().with_file_name(format!("0.log.{time}"))).unwrap();
    }

    fn restart(&mut self, positions: Positions) {
        self.follower = Self::follower(self.dir.path(), positions);
    }
}

#[test]
fn a_path_names_its_container() {
    let root = Path::new("/var/log/pods");
    let place = Place::of(root, Path::new("/var/log/pods/default_web-1_1234/app/0.log")).unwrap();
    let labels = place.stream("n1", Some("web"), "stdout").labels.to_string();
    let expected =
        r#"{app="web", container="app", namespace="default", node="n1", pod="web-1", service_name="web", stream="stdout"}"#;
    assert_eq!(labels, expected);
    for other in ["default_web-1_1234/app/0.log.20260101-000000", "default_web-1/app/0.log", "x.log", "a_b_c/d/e/0.log"] {
        assert_eq!(Place::of(root, &root.join(other)), None, "{other}");
    }
}

#[test]
fn lines_are_read_once_and_joined() {
    let mut fixture = Fixture::new();
    let piece = "x".repeat(PIECE);
    let part = format!("P {piece}");
    fixture.write(&["F one", &part, &part]);
    assert_eq!(fixture.read().0, ["one"]);
    fixture.write(&["F a half", "F three"]);
    assert_eq!(fixture.read().0, [format!("{piece}{piece}a half"), "three".into()]);
    assert_eq!(fixture.read().0, Vec::<String>::new());
}

#[test]
fn what_a_stream_ends_with_is_a_line() {
    let mut fixture = Fixture::new();
    fixture.write(&[&format!("P {}", "x".repeat(PIECE)), "P no newline"]);
    assert_eq!(fixture.read().0, [format!("{}no newline", "x".repeat(PIECE))]);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut fixture = Fixture::new();
    let piece = "x".repeat(PIECE);
    fixture.write(&["F one", &format!("P {piece}")]);
    let (lines, positions) = fixture.read();
    assert_eq!(lines, ["one"]);
    fixture.restart(positions);
    fixture.write(&["F and a half"]);
    assert_eq!(fixture.read().0, [format!("{piece}and a half")]);
}

#[test]
fn rotation_loses_nothing() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    assert_eq!(fixture.read().0, ["one"]);
    fixture.write(&["F two"]);
    fixture.rotate("20260101-000000");
    assert_eq!(fixture.read().0, ["two"], "read from the file that was renamed");
    fixture.write(&["F three"]);
    assert_eq!(fixture.read().0, ["three"]);
}

#[test]
fn rotations_while_nobody_looks_lose_nothing() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    let (_, positions) = fixture.read();
    for (time, line) in [("20260101-000000", "F two"), ("20260101-000001", "F three")] {
        fixture.write(&[line]);
        fixture.rotate(time);
    }
    fixture.write(&["F four"]);
    fixture.restart(positions);
    assert_eq!(fixture.read().0, ["two", "three", "four"]);
    assert_eq!(fixture.follower.lost, 0);
}

#[test]
fn a_file_that_is_gone_is_forgotten() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    let (_, positions) = fixture.read();
    fs::remove_dir_all(fixture.dir.path().join("default_web-1_1234")).unwrap();
    assert_eq!(fixture.read().0, Vec::<String>::new());
    assert!(fixture.follower.tails.is_empty());
    fixture.restart(positions);
    let pass = fixture.follower.pass(BTreeSet::from([PathBuf::new()]));
    assert_eq!(pass.batch.positions, [(fixture.log(), None)]);
}

#[test]
fn several_rotations_between_two_reads_lose_nothing() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    assert_eq!(fixture.read().0, ["one"]);
    let times = ["20260101-000000", "20260101-000000.001", "20260101-000000.002", "20260101-000001"];
    for (time, line) in times.into_iter().zip(["F two", "F three", "F four", "F five"]) {
        fixture.write(&[line]);
        fixture.rotate(time);
    }
    fixture.write(&["F six"]);
    assert_eq!(fixture.read().0, ["two", "three", "four", "five", "six"]);
    let (_, positions) = fixture.read();
    assert!(positions.is_empty(), "nothing is read twice");
    assert_eq!(fixture.follower.lost, 0);
}

#[test]
fn what_was_rotated_before_it_was_seen_is_read() {
    let mut fixture = Fixture::new();
    for (time, line) in [("20260101-000000", "F one"), ("20260101-000000.001", "F two")] {
        fixture.write(&[line]);
        fixture.rotate(time);
    }
    fixture.write(&["F three"]);
    assert_eq!(fixture.read().0, ["one", "two", "three"]);
    assert_eq!(fixture.follower.lost, 0);
}

/// What one call of a tail gives.
fn step(tail: &mut Tail, path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    tail.read(path, READ_BYTES, &mut |_: i64, _: &'static str, line: &str| lines.push(line.to_owned())).unwrap();
    lines
}

#[test]
fn rotated_files_that_went_unread_are_counted() {
    let fixture = Fixture::new();
    let path = fixture.log();
    let remove = |time: &str| fs::remove_file(path.with_file_name(format!("0.log.{time}"))).unwrap();
    fixture.write(&["F one"]);
    let mut tail = Tail::open(&path, None).unwrap();
    for time in ["1", "2", "3", "4"] {
        fixture.rotate(time);
        fixture.write(&[&format!("F after {time}")]);
    }
    assert_eq!(step(&mut tail, &path), ["one"]);
    remove("1");
    remove("2");
    remove("3");
    assert_eq!(step(&mut tail, &path), Vec::<String>::new(), "goes on to the next that is there");
    assert_eq!(step(&mut tail, &path), ["after 3"]);
    assert_eq!(tail.take_lost(), 2, "what was open is not lost");
    assert_eq!(step(&mut tail, &path), Vec::<String>::new());
    assert_eq!(step(&mut tail, &path), ["after 4"]);
    // More came and went than was seen.
    for time in ["5", "6", "7"] {
        fixture.rotate(time);
        fixture.write(&[&format!("F after {time}")]);
    }
    remove("5");
    remove("6");
    let lines: Vec<_> = (0..4).flat_map(|_| step(&mut tail, &path)).collect();
    assert_eq!(lines, ["after 6", "after 7"]);
    assert_eq!(tail.take_lost(), 1);
}

#[test]
fn a_log_that_is_removed_before_its_rotated_files_is_not_read_again() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    fixture.rotate("20260101-000000");
    fixture.write(&["F two"]);
    assert_eq!(fixture.read().0, ["one", "two"]);
    fs::remove_file(fixture.log()).unwrap();
    assert_eq!(fixture.read().0, Vec::<String>::new());
    assert_eq!(fixture.follower.lost, 0);
}

#[test]
fn a_restart_goes_on_with_the_oldest_file_that_is_left() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    let (_, positions) = fixture.read();
    fixture.rotate("20260101-000000");
    for time in ["20260101-000001", "20260101-000001.001"] {
        fixture.write(&[&format!("F {time}")]);
        fixture.rotate(time);
    }
    // The new file must not get the number of the one that was left.
    fixture.write(&["F last"]);
    fs::remove_file(fixture.log().with_file_name("0.log.20260101-000000")).unwrap();
    fixture.restart(positions);
    assert_eq!(fixture.read().0, ["20260101-000001", "20260101-000001.001", "last"]);
    assert_eq!(fixture.follower.lost, 1);
}

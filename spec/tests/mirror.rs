//! Following a branch: what a mirror brings, and what it says when there is nothing to bring.

use std::path::Path;

use git2::{BranchType, IndexAddOption, Oid, Repository, Signature};
use tempfile::TempDir;
use tw_spec::{Mirror, MirrorError, Remote};

/// Commits a file on top of a parent, and moves the branch there.
fn commit(repository: &Repository, text: &str, parent: Option<Oid>) -> Oid {
    let root = repository.workdir().expect("a work tree");
    std::fs::write(root.join("config.tw"), text).expect("write");
    let mut index = repository.index().expect("index");
    index
        .add_all(["*"], IndexAddOption::DEFAULT, None)
        .expect("add");
    index.write().expect("write");
    let tree = index.write_tree().expect("tree");
    let tree = repository.find_tree(tree).expect("tree");
    let who = Signature::now("Au\u{7}thor", "author@localhost").expect("signature");
    let parent = parent.map(|id| repository.find_commit(id).expect("parent"));
    let parents: Vec<_> = parent.iter().collect();
    let id = repository
        .commit(
            None,
            &who,
            &who,
            &format!("{text}\n\nmore"),
            &tree,
            &parents,
        )
        .expect("commit");
    repository
        .reference("refs/heads/main", id, true, "test")
        .expect("branch");
    id
}

struct Followed {
    _folder: TempDir,
    origin: Repository,
    mirror: Mirror,
    remote: Remote,
}

fn followed() -> Followed {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = Repository::init(folder.path().join("origin")).expect("init");
    let mirror = Mirror::open(&folder.path().join("mirrors/shop.git")).expect("a mirror");
    let remote = Remote {
        url: origin.workdir().expect("work tree").display().to_string(),
        branch: "main".to_owned(),
        token_file: None,
        ssh_key: None,
    };
    Followed {
        _folder: folder,
        origin,
        mirror,
        remote,
    }
}

#[test]
fn a_mirror_has_what_the_branch_has() {
    let Followed {
        _folder,
        origin,
        mirror,
        mut remote,
    } = followed();
    let first = commit(&origin, "first", None);
    assert_eq!(mirror.fetch(&remote).unwrap(), first.to_string());
    let shown = mirror.commit(&first.to_string()).unwrap();
    assert_eq!(
        (shown.subject.as_str(), shown.author.as_str()),
        ("first", "Au\\x07thor")
    );
    let second = commit(&origin, "second", Some(first));
    remote.url = format!("file://{}", Path::new(&remote.url).display());
    assert_eq!(mirror.fetch(&remote).unwrap(), second.to_string());

    let source = mirror.source(&first.to_string()).unwrap();
    assert_eq!(source.read("config.tw").unwrap().unwrap(), b"first");
    assert_eq!(
        source.specs_if_any(&[String::new()]).unwrap(),
        ["config.tw"]
    );
    let (first, second) = (first.to_string(), second.to_string());
    assert!(mirror.builds_on(&second, &first).unwrap());
    assert!(mirror.builds_on(&second, &second).unwrap());
    assert!(!mirror.builds_on(&first, &second).unwrap());
    for revision in [&first, &first[..8], "HEAD~1", "HEAD^"] {
        assert_eq!(mirror.resolve(revision).unwrap(), first, "{revision}");
    }
    // Opened again, it goes on where it was.
    let again = Mirror::open(&_folder.path().join("mirrors/shop.git")).unwrap();
    assert_eq!(again.fetch(&remote).unwrap(), second);
}

#[test]
fn a_forced_push_keeps_what_it_takes_away() {
    let Followed {
        _folder,
        origin,
        mirror,
        remote,
    } = followed();
    let base = commit(&origin, "base", None);
    let lost = commit(&origin, "lost", Some(base));
    mirror.fetch(&remote).unwrap();
    let new = commit(&origin, "new", Some(base));
    assert_eq!(mirror.fetch(&remote).unwrap(), new.to_string());
    assert!(
        !mirror
            .builds_on(&new.to_string(), &lost.to_string())
            .unwrap()
    );
    assert!(mirror.source(&lost.to_string()).is_ok());
    // It is there, and not on the branch.
    let refused = mirror.resolve(&lost.to_string()).unwrap_err();
    assert!(matches!(refused, MirrorError::NoCommit { .. }), "{refused}");
}

#[test]
fn what_cannot_be_fetched_is_said() {
    let Followed {
        _folder,
        origin,
        mirror,
        mut remote,
    } = followed();
    let empty = mirror.fetch(&remote).unwrap_err();
    assert!(matches!(empty, MirrorError::NoBranch { .. }), "{empty}");
    commit(&origin, "first", None);
    mirror.fetch(&remote).unwrap();
    origin
        .set_head_detached(origin.refname_to_id("refs/heads/main").unwrap())
        .unwrap();
    let mut branch = origin.find_branch("main", BranchType::Local).unwrap();
    branch.delete().unwrap();
    let gone = mirror.fetch(&remote).unwrap_err();
    assert!(gone.to_string().contains("no branch 'main'"), "{gone}");

    remote.url.push_str("-elsewhere");
    let away = mirror.fetch(&remote).unwrap_err();
    assert!(matches!(away, MirrorError::Unreachable { .. }), "{away}");
    remote.url = "https://bot:hunter2@127.0.0.1:1/shop.git".to_owned();
    let closed = mirror.fetch(&remote).unwrap_err();
    assert!(
        matches!(closed, MirrorError::Unreachable { .. }),
        "{closed}"
    );
    assert!(!closed.to_string().contains("hunter2"), "{closed}");
    assert!(mirror.resolve("nonsense").is_err());
}

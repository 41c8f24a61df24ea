//! Trees: the work tree and revisions read alike, and neither leaves the repository.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use git2::{IndexAddOption, Repository, Signature};
use tempfile::TempDir;
use tw_spec::package::{PackageError, pack};
use tw_spec::{EntryKind, Source, SourceError};

fn write(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().expect("a folder")).expect("mkdir");
    fs::write(file, text).expect("write");
}

fn commit(root: &Path) {
    let repository = Repository::open(root).expect("a repository");
    let mut index = repository.index().expect("index");
    index
        .add_all(["*"], IndexAddOption::DEFAULT, None)
        .expect("add");
    index.write().expect("write");
    let tree = repository
        .find_tree(index.write_tree().expect("tree"))
        .expect("tree");
    let who = Signature::now("Test", "test@example.com").expect("signature");
    let parent = repository
        .head()
        .ok()
        .and_then(|head| head.peel_to_commit().ok());
    let parents: Vec<_> = parent.iter().collect();
    repository
        .commit(Some("HEAD"), &who, &who, "change", &tree, &parents)
        .expect("commit");
}

/// A committed tree with a module, a link to it, a program, an ignored file, and links that leave.
fn tree() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    Repository::init(root).expect("init");
    write(root, "app/main.py", "print(1)\n");
    write(root, "app/lib/util.py", "x = 1\n");
    write(root, "app/run.sh", "#!/bin/sh\n");
    fs::set_permissions(root.join("app/run.sh"), fs::Permissions::from_mode(0o755)).expect("chmod");
    write(root, ".gitignore", "*.pyc\n");
    write(root, "app/main.pyc", "compiled");
    symlink("lib/util.py", root.join("app/link.py")).expect("link");
    symlink("app", root.join("same")).expect("link");
    symlink("/etc", root.join("outside")).expect("link");
    write(root, "a/config.tw", "");
    write(root, "a/.hidden/config.tw", "");
    write(root, "config.tw", "");
    commit(root);
    folder
}

fn both(folder: &TempDir) -> [Source; 2] {
    [
        Source::work_tree(folder.path()).expect("a work tree"),
        Source::revision(folder.path(), "HEAD").expect("a revision"),
    ]
}

#[test]
fn a_work_tree_without_changes_is_its_commit() {
    let folder = tree();
    let commit = || {
        let source = Source::work_tree(folder.path()).expect("a work tree");
        source.unchanged_commit()
    };
    let [_, head] = both(&folder);
    assert!(head.commit().is_some());
    assert_eq!(commit(), head.commit());
    assert_eq!(head.unchanged_commit(), head.commit());
    write(folder.path(), "app/other.pyc", "ignored");
    assert_eq!(commit(), head.commit());
    write(folder.path(), "app/new.py", "");
    assert_eq!(commit(), None, "a new file");
    fs::remove_file(folder.path().join("app/new.py")).expect("remove");
    write(folder.path(), "config.tw", "changed");
    assert_eq!(commit(), None, "a changed file");
}

#[test]
fn files_and_folders_are_read_alike() {
    let folder = tree();
    for source in both(&folder) {
        assert_eq!(
            source.read("app/main.py").expect("read").as_deref(),
            Some(&b"print(1)\n"[..])
        );
        assert_eq!(source.read("app/absent.py").expect("read"), None);
        assert_eq!(source.read("app").expect("read"), None);
        assert_eq!(source.read("app/main.py/x").expect("read"), None);
        assert_eq!(source.read("").expect("read"), None);
        let names: Vec<String> = source
            .list("app")
            .expect("list")
            .expect("a folder")
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(
            names,
            ["lib", "link.py", "main.py", "run.sh"],
            "what git ignores is left out"
        );
        assert_eq!(source.list("app/main.py").expect("list"), None);
        assert_eq!(
            source.kind("app/run.sh").expect("kind"),
            Some(EntryKind::File { executable: true })
        );
        assert_eq!(source.kind("app").expect("kind"), Some(EntryKind::Folder));
    }
}

#[test]
fn links_are_followed_inside_and_refused_outside() {
    let folder = tree();
    for source in both(&folder) {
        assert_eq!(
            source.read("app/link.py").expect("read").as_deref(),
            Some(&b"x = 1\n"[..])
        );
        assert_eq!(
            source.read("same/lib/util.py").expect("read").as_deref(),
            Some(&b"x = 1\n"[..])
        );
        assert!(
            matches!(
                source.read("outside/passwd"),
                Err(SourceError::LinkOutside { .. })
            ),
            "{}",
            source.describe()
        );
    }
}

#[test]
fn the_git_folder_and_the_way_up_are_not_part_of_the_tree() {
    let folder = tree();
    for source in both(&folder) {
        assert_eq!(source.read(".git/config").expect("read"), None);
        assert_eq!(source.read("../x").expect("read"), None);
    }
}

#[test]
fn specs_are_found_below_folders_and_hidden_ones_are_passed_over() {
    let folder = tree();
    for source in both(&folder) {
        assert_eq!(
            source.find_specs(&[String::new()]).expect("specs"),
            ["a/config.tw", "config.tw"]
        );
        assert_eq!(
            source
                .find_specs(&["a".into(), "a/config.tw".into()])
                .expect("specs"),
            ["a/config.tw"]
        );
        assert!(matches!(
            source.find_specs(&["app".into()]),
            Err(SourceError::NoSpecs { .. })
        ));
        assert!(matches!(
            source.find_specs(&["absent".into()]),
            Err(SourceError::NotFound { .. })
        ));
        assert_eq!(
            source.specs_if_any(&["absent".into()]).expect("specs"),
            [""; 0]
        );
    }
}

#[test]
fn all_specs_of_a_large_tree_are_found_in_order() {
    let folder = tree();
    let root = folder.path();
    let mut expected = vec!["a/config.tw".to_owned(), "config.tw".to_owned()];
    for number in 0..300 {
        let path = format!("team-{}/service-{number:03}/config.tw", number % 7);
        write(root, &path, "");
        expected.push(path);
    }
    write(root, "team-3/.gitignore", "service-24*\n");
    expected.retain(|path| !path.starts_with("team-3/service-24"));
    expected.sort();
    let [work_tree, _] = both(&folder);
    assert_eq!(
        work_tree.find_specs(&[String::new()]).expect("specs"),
        expected
    );
}

#[test]
fn a_path_that_leads_nowhere_names_what_is_near() {
    let folder = tree();
    for source in both(&folder) {
        let said = |path: &str| match source.find_specs(&[path.to_owned()]) {
            Err(cause) => cause.to_string(),
            Ok(found) => panic!("{path}: {found:?}"),
        };
        for (path, end) in [
            ("a/confg.tw", "; did you mean 'a/config.tw'?"),
            ("a/config", "; did you mean 'a/config.tw'?"),
            ("apq", "; did you mean 'app'?"),
            ("b/confg.tw", "; did you mean 'a/config.tw'?"),
            ("a/other/deep.tw", "; there is a/config.tw"),
            ("xyzzy", "; there are a/config.tw, config.tw"),
        ] {
            assert!(said(path).ends_with(end), "{path}: {}", said(path));
        }
    }
}

#[test]
fn typed_paths_are_taken_from_the_folder_they_were_typed_in() {
    let folder = tree();
    let source = Source::work_tree(&folder.path().join("app")).expect("a work tree");
    let root = folder.path().canonicalize().expect("root");
    assert_eq!(source.root(), root);
    assert_eq!(
        source
            .relative(&root.join("app"), Path::new("../a/./config.tw"))
            .expect("inside"),
        "a/config.tw"
    );
    assert_eq!(source.relative(&root, Path::new(".")).expect("inside"), "");
    assert!(matches!(
        source.relative(&root, Path::new("..")),
        Err(SourceError::Outside { .. })
    ));
}

#[test]
fn outside_git_the_root_is_the_folder_given() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "config.tw", "");
    let source = Source::work_tree(&folder.path().join("config.tw")).expect("a tree");
    assert_eq!(source.root(), folder.path().canonicalize().expect("root"));
    let error = Source::revision(folder.path(), "HEAD").expect_err("no git");
    assert!(
        error.to_string().contains("is not in a git repository"),
        "{error}"
    );
}

#[test]
fn an_unknown_revision_is_named() {
    let folder = tree();
    let error = Source::revision(folder.path(), "no-such").expect_err("unknown");
    assert!(
        error.to_string().contains("no revision 'no-such'"),
        "{error}"
    );
}

#[test]
fn a_package_is_the_same_from_either_tree_and_any_clone() {
    let folder = tree();
    let [work_tree, revision] = both(&folder);
    let package = pack(&work_tree, "app").expect("a package");
    assert_eq!(
        package.digest,
        pack(&revision, "app").expect("a package").digest
    );
    assert_eq!(
        package.digest,
        pack(&Source::work_tree(tree().path()).expect("tree"), "app")
            .expect("a package")
            .digest
    );
    let mut archive = tar::Archive::new(&package.archive[..]);
    let found: Vec<(String, u32, u64)> = archive
        .entries()
        .expect("entries")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let header = entry.header();
            let name = entry.path().expect("a path").display().to_string();
            (
                name,
                header.mode().expect("a mode"),
                header.mtime().expect("a time"),
            )
        })
        .collect();
    let expected = [
        ("lib", 0o755, 0),
        ("lib/util.py", 0o644, 0),
        ("link.py", 0o777, 0),
        ("main.py", 0o644, 0),
        ("run.sh", 0o755, 0),
    ];
    assert_eq!(
        found,
        expected.map(|(name, mode, time)| (name.to_owned(), mode, time))
    );
}

#[test]
fn a_package_changes_with_any_file_and_with_its_mode() {
    let folder = tree();
    let digest = || {
        pack(&Source::work_tree(folder.path()).expect("tree"), "app")
            .expect("a package")
            .digest
    };
    let first = digest();
    fs::set_permissions(
        folder.path().join("app/main.py"),
        fs::Permissions::from_mode(0o755),
    )
    .expect("chmod");
    let second = digest();
    write(folder.path(), "app/lib/util.py", "x = 2\n");
    let third = digest();
    assert!(first != second && second != third && first != third);
}

#[test]
fn a_package_keeps_no_link_that_leaves_it() {
    let folder = tree();
    symlink("../config.tw", folder.path().join("app/up")).expect("link");
    let source = Source::work_tree(folder.path()).expect("tree");
    assert!(matches!(
        pack(&source, "app"),
        Err(PackageError::LinkOutside { .. })
    ));
    assert!(matches!(
        pack(&source, "absent"),
        Err(PackageError::NoFolder { .. })
    ));
}

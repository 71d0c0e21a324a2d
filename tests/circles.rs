//! No circle of imports between the files of a crate.
//!
//! A file may import from its parent module, and a parent from its children: these pairs form one unit. Two other
//! files that import each other, directly or through further files, are a circle: a reader cannot understand one
//! without the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::architecture::{root, sources};

/// Module path of a file, such as `["store", "apply"]`. The crate's root is empty.
type Module = Vec<String>;

/// Imports between the files of one crate: for each module the modules that it names.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn module_of(file: &Path) -> Module {
    let mut path: Module =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// Returns the paths that a `use` declaration names: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn expand(declaration: &str) -> Vec<String> {
    let Some((head, rest)) = declaration.split_once('{') else {
        return vec![declaration.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("never empty").push(letter);
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| expand(&format!("{}{part}", head.trim()))).collect()
}

/// Returns the module that a path leads to, as seen from `here`: the longest prefix that is a module.
fn resolve(path: &str, here: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut names = path.split("::").map(str::trim);
    let mut at = match names.next()? {
        "crate" => Module::new(),
        "self" => here.clone(),
        "super" => here[..here.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    for name in names {
        if name == "super" {
            at.pop();
            continue;
        }
        at.push(name.to_owned());
        if !modules.contains(&at) {
            at.pop();
            break;
        }
    }
    Some(at)
}

/// Reads `use` declarations at the top level of each file, so that those of a test module inside it do not count.
fn imports(files: &[(Module, String)]) -> Imports {
    let modules: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
    let mut imports = Imports::new();
    for (here, text) in files {
        let declarations = ["\nuse ", "\npub use ", "\npub(crate) use "]
            .into_iter()
            .flat_map(|start| text.split(start).skip(1));
        let named =
            declarations.filter_map(|after| after.split_once(';')).map(|(declaration, _)| declaration);
        let targets = named.flat_map(expand).filter_map(|path| resolve(&path, here, &modules));
        let others = targets.filter(|other| !here.starts_with(other) && !other.starts_with(here));
        imports.entry(here.clone()).or_default().extend(others);
    }
    imports
}

fn reaches(imports: &Imports, from: &Module, to: &Module) -> bool {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(module) = left.pop() {
        for next in imports.get(module).into_iter().flatten().filter(|next| seen.insert(*next)) {
            if next == to {
                return true;
            }
            left.push(next);
        }
    }
    false
}

/// Returns the modules that are part of a circle.
fn circles(imports: &Imports) -> Vec<String> {
    let in_circle = imports.keys().filter(|module| reaches(imports, module, module));
    in_circle
        .map(|module| {
            let back = imports[module].iter().filter(|next| reaches(imports, next, module));
            let back: Vec<String> = back.map(|next| next.join("::")).collect();
            format!("{} -> {}", module.join("::"), back.join(", "))
        })
        .collect()
}

#[test]
fn no_two_files_of_a_crate_import_each_other() {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(root().join("crates")).expect("the crates").flatten() {
        let base = folder.path().join("src");
        let is_test = |module: &Module| module.last().is_some_and(|last| last.ends_with("tests"));
        let files: Vec<(Module, String)> = sources(&base)
            .into_iter()
            .map(|path| {
                let text = std::fs::read_to_string(&path).expect("a source");
                (module_of(path.strip_prefix(&base).expect("below it")), text)
            })
            .filter(|(module, _)| !is_test(module))
            .collect();
        let name = folder.file_name().to_string_lossy().into_owned();
        found.extend(circles(&imports(&files)).into_iter().map(|circle| format!("{name}: {circle}")));
    }
    assert!(found.is_empty(), "move the shared type to a file of its own:\n{}", found.join("\n"));
}

#[test]
fn a_circle_is_found_through_a_third_file_and_through_groups_of_imports() {
    let file = |module: &str, text: &str| {
        (module.split("::").map(str::to_owned).collect::<Module>(), format!("//! A file.\n\n{text}\n"))
    };
    let files = [
        file("store::apply", "use std::fmt;\n\nuse super::write::{Row, Value as Text};"),
        file("store::write", "use crate::{clock::Clock, store::{read::Page}};"),
        file("store::read", "use super::apply::Seen;\n\nmod tests {\n    use crate::clock::Other;\n}"),
        file("clock", "use std::time::Duration;"),
        file("store", "mod apply;"),
    ];
    let found = circles(&imports(&files));
    assert_eq!(
        found,
        ["store::apply -> store::write", "store::read -> store::apply", "store::write -> store::read"]
    );
    let parent = [file("store", "use self::apply::Seen;"), file("store::apply", "use super::Limits;")];
    assert_eq!(circles(&imports(&parent)), [""; 0], "a parent and its child are one unit");
}

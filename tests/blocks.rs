//! Blocks of code in pages, by the name in the comment above them: `<!-- name -->`.

use std::fs::{create_dir_all, read_to_string, write};
use std::path::{Path, PathBuf};

use crate::architecture::root;

/// A page with named blocks, by its path from the root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page(pub(crate) &'static str);

impl Page {
    pub(crate) fn text(self) -> String {
        read_to_string(root().join(self.0)).unwrap_or_else(|error| panic!("{}: {error}", self.0))
    }

    /// Returns a block by its name.
    pub(crate) fn block(self, name: &str) -> String {
        let page = self.text();
        let (_, rest) =
            page.split_once(&format!("<!-- {name} -->\n```")).unwrap_or_else(|| panic!("no block {name}"));
        let (_, code) = rest.split_once('\n').expect("a block");
        let (code, _) = code.split_once("\n```\n").expect("the end of the block");
        format!("{code}\n")
    }

    /// Writes a block into a folder, under its name.
    pub(crate) fn write_block(self, folder: &Path, name: &str) -> PathBuf {
        self.write_block_as(folder, name, name)
    }

    /// Writes a block into a folder under another name.
    pub(crate) fn write_block_as(self, folder: &Path, name: &str, path: &str) -> PathBuf {
        let path = folder.join(path);
        create_dir_all(path.parent().expect("a folder")).expect("a folder");
        write(&path, self.block(name)).expect("a written file");
        path
    }

    /// Asserts that each block of the page has a name that occurs in the sources of tests below these folders or in these
    /// files. Blocks of plain text are not run.
    pub(crate) fn assert_every_block_is_run(self, sources: &[&str]) {
        let page = self.text();
        let fences = page.matches("\n```").count() / 2 - page.matches("\n```text\n").count();
        assert_eq!(
            page.matches("<!-- ").count(),
            fences,
            "{}: a block has no name, or a name has no block",
            self.0
        );
        let sources: String = sources
            .iter()
            .map(|path| root().join(path))
            .flat_map(|path| if path.is_dir() { crate::architecture::sources(&path) } else { vec![path] })
            .map(|path| read_to_string(path).expect("a source"))
            .collect();
        let names = page.split("<!-- ").skip(1).filter_map(|rest| rest.split_once(" -->"));
        for (name, _) in names {
            assert!(sources.contains(&format!("\"{name}\"")), "{}: {name}", self.0);
        }
    }
}

//! Writes what is generated from the schema: the Python classes and the spec reference.
//!
//! Run by `make docs`, from the repository's root.

fn main() -> std::io::Result<()> {
    std::fs::write("stdlib_py/tw/_schema.py", tw_model::python_module())?;
    std::fs::write("docs/spec-reference.md", tw_model::spec_reference())
}

//! Programs of others that the checks need.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Site;
use super::process::Process;
use crate::console;

/// Time for installing one thing.
const INSTALL: Duration = Duration::from_secs(600);

/// Makes sure that `program` can be run: on Debian and as root it is installed.
pub(crate) fn need(site: &Site, program: &str, packages: &[&str]) -> Result<()> {
    if found(program) {
        return Ok(());
    }
    let install = format!("apt-get install --yes {}", packages.join(" "));
    ensure!(
        rustix::process::geteuid().is_root() && found("apt-get"),
        "{program} is missing; install it, on Debian with `{install}` as root"
    );
    console::begin(format_args!("{program} is missing: {install}"));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        Process::start("apt-get", &mut command, &site.work)?.succeed(INSTALL)
    };
    apt(&["update"])?;
    let flags = ["install", "--yes", "--no-install-recommends"];
    apt(&[&flags, packages].concat())?;
    ensure!(found(program), "{program} is missing after `{install}`");
    Ok(())
}

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A Python with the packages that `requirements` pins; the path of its interpreter.
pub(crate) fn python(site: &Site, requirements: &Path) -> Result<PathBuf> {
    need(site, "python3", &["python3", "python3-venv"])?;
    let folder = site.cache.join("python").join(owner(requirements)?);
    let python = folder.join("bin/python");
    let wanted = read(requirements)?;
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    console::begin("making a virtual environment for Python");
    // The module is there without what it needs on a bare Debian.
    let venv = ["-m", "venv", "--clear"];
    let mut command = Command::new("python3");
    command.args(venv).arg(&folder);
    let made = Process::start("venv", &mut command, &site.work)?.succeed(INSTALL);
    made.context("install venv, on Debian with `apt-get install --yes python3-venv` as root")?;
    let mut command = Command::new(&python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ]);
    Process::start("pip", command.arg(requirements), &site.work)?
        .succeed(INSTALL)
        .context("the packages of Python cannot be installed; is the package index reachable?")?;
    fs::write(&stamp, wanted)?;
    Ok(python)
}

/// The folder `node_modules` with what `package.json` and its lock file beside it pin.
pub(crate) fn node_modules(site: &Site, package: &Path) -> Result<PathBuf> {
    need(site, "node", &["nodejs", "npm"])?;
    need(site, "npm", &["npm"])?;
    let folder = site.cache.join("node").join(owner(package)?);
    let lock = package.with_file_name("package-lock.json");
    let wanted = read(package)? + &read(&lock)?;
    let stamp = folder.join("installed.txt");
    let modules = folder.join("node_modules");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(modules);
    }
    console::begin("installing the packages of Node.js");
    fs::create_dir_all(&folder)?;
    for file in [package, &lock] {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, folder.join(name))?;
    }
    let mut command = Command::new("npm");
    command.args([
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
    ]);
    Process::start("npm", command.arg(&folder), &site.work)?
        .succeed(INSTALL)
        .context("the packages of Node.js cannot be installed; is the registry reachable?")?;
    fs::write(&stamp, wanted)?;
    Ok(modules)
}

/// Makes Python's code from a contract below `proto/`, as a foreign developer would; the folder that
/// has it. The contract as a set of descriptors is there too, as [`DESCRIPTORS`].
pub(crate) fn generate(site: &Site, python: &Path, contract: &str) -> Result<PathBuf> {
    let generated = site.folder("generated")?;
    if fs::read_dir(&generated)?.next().is_some() {
        return Ok(generated);
    }
    let out = text(&generated)?;
    let args = [
        "-m".to_owned(),
        "grpc_tools.protoc".to_owned(),
        format!("--proto_path={}", text(&site.root.join("proto"))?),
        format!("--python_out={out}"),
        format!("--grpc_python_out={out}"),
        "--include_imports".to_owned(),
        format!("--descriptor_set_out={out}/{DESCRIPTORS}"),
        contract.to_owned(),
    ];
    run(site, "protoc", python, args).context("code cannot be made from proto/")?;
    Ok(generated)
}

/// A file that [`generate`] makes.
pub(crate) const DESCRIPTORS: &str = "contract.binpb";

/// A path as text, for the settings of a script.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .context("the path of the repository is not UTF-8; move it")
}

/// Who asks for packages: the name of the folder that lists them.
fn owner(list: &Path) -> Result<&OsStr> {
    let folder = list.parent().and_then(Path::file_name);
    folder.with_context(|| format!("{} lies in no folder", list.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Runs a program to its end, in the suite's folder; its output.
pub(crate) fn run<I, A>(site: &Site, name: &str, program: &Path, args: I) -> Result<Vec<String>>
where
    I: IntoIterator<Item = A>,
    A: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    let process = Process::start(name, command.args(args), &site.work)?;
    Ok(process.succeed(INSTALL)?.output)
}

/// Text for a field of a shell's or a setting's command line.
pub(crate) fn quoted(path: &Path) -> Result<String> {
    let text = text(path)?;
    if text.contains('\'') {
        bail!("{text} contains a quotation mark; move the repository");
    }
    Ok(format!("'{text}'"))
}

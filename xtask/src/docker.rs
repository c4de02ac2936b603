//! A Docker engine: the one that is here, or one that is installed from Debian's packages, started, and stopped again.

mod relay;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Result, say, workspace};

use relay::Relay;

/// The variable in which everything that uses Docker finds its engine.
const HOST: &str = "DOCKER_HOST";

/// How long an engine may take to start on a busy machine; two seconds are usual.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The version of the engine's API that testcontainers 0.28 asks with.
const NEWEST_ASKED: u8 = 53;

/// An engine that answers. One that was started here is stopped when this is dropped.
pub(crate) struct Docker {
    /// The socket of an engine that was started here.
    socket: Option<PathBuf>,
    dir: Option<PathBuf>,
}

impl Docker {
    /// The engine that this user's `docker` reaches.
    pub(crate) fn that_is_here() -> Result<Self> {
        let docker = Self { socket: None, dir: None };
        docker.run(&["info"]).map(|_| docker).map_err(|problem| {
            format!("no Docker engine answers ({problem}). cargo xtask accept containers installs and starts one; or:  apt-get install -y docker.io")
        })
    }

    /// The engine that is here; else one from Debian's package `docker.io`, which is installed when it is missing, with its data
    /// and its socket in cargo's target folder. Needs root, or `sudo` without a password.
    pub(crate) fn here_or_installed() -> Result<Self> {
        if let Ok(docker) = Self::that_is_here() {
            return Ok(docker);
        }
        if which("dockerd").is_none() || which("docker").is_none() {
            install()?;
        }
        start()
    }

    /// What programs that use testcontainers are to be told of this engine.
    pub(crate) fn for_testcontainers(&self) -> Result<ForTestcontainers> {
        let version = self.run(&["version", "--format", "{{.Server.APIVersion}}"])?;
        let minor: Option<u8> = version.trim().strip_prefix("1.").and_then(|minor| minor.parse().ok());
        let host = self.host();
        let engine = host.as_deref().unwrap_or("unix:///var/run/docker.sock").strip_prefix("unix://");
        let (Some(minor @ 10..NEWEST_ASKED), Some(engine)) = (minor, engine) else {
            return Ok(ForTestcontainers { host, _relay: None });
        };
        let socket = std::env::temp_dir().join(format!("milena-docker-{}-relay.sock", std::process::id()));
        let relay = Relay::start(socket.clone(), engine.into(), minor);
        let relay = relay.map_err(|e| format!("cannot listen at {}: {e}", socket.display()))?;
        Ok(ForTestcontainers { host: Some(format!("unix://{}", socket.display())), _relay: Some(relay) })
    }

    /// `DOCKER_HOST`, where it is not the default.
    fn host(&self) -> Option<String> {
        let own = self.socket.as_ref().map(|socket| format!("unix://{}", socket.display()));
        own.or_else(|| std::env::var(HOST).ok())
    }

    /// Runs `docker ARGUMENTS…` and returns what it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let out =
            self.command(arguments).stdin(Stdio::null()).output().map_err(|e| format!("cannot run docker: {e}"))?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
    }

    /// Makes an image of a root file system.
    pub(crate) fn import(&self, changes: &[&str], archive: ChildStdout, name: &str) -> Result<()> {
        let mut command = self.command(&["import"]);
        let status = command.args(changes).args(["-", name]).stdin(archive).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("docker import ended with {status}")),
            Err(problem) => Err(format!("cannot run docker: {problem}")),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments).envs(self.host().map(|host| (HOST, host)));
        command
    }
}

/// The engine as testcontainers reaches it, as long as this lives.
pub(crate) struct ForTestcontainers {
    host: Option<String>,
    _relay: Option<Relay>,
}

impl ForTestcontainers {
    pub(crate) fn environment(&self) -> Option<(&'static str, &str)> {
        self.host.as_deref().map(|host| (HOST, host))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        let pid_file = dir.join("pid");
        let Ok(pid) = fs::read_to_string(&pid_file) else { return };
        say("stopping the Docker engine");
        let _ = as_root("kill").arg(pid.trim()).status();
        let until = Instant::now() + START_LIMIT;
        // The engine removes the file when it has stopped its containers.
        while pid_file.exists() && Instant::now() < until {
            sleep(Duration::from_millis(100));
        }
    }
}

fn install() -> Result<()> {
    say("installing Debian's package docker.io");
    let hint = "docker.io could not be installed; install a Docker engine by hand, or start one that is there";
    let apt = |arguments: &[&str]| {
        let mut apt = as_root("env");
        // Standard output is for results. Others may be installing at the same moment.
        apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
        apt.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let install = ["install", "-y", "--no-install-recommends", "docker.io"];
    if apt(&["update"]) && apt(&install) { Ok(()) } else { Err(hint.to_owned()) }
}

/// Starts an engine of its own beside whatever else is on the machine: its data, its socket and its log are in `target/docker`.
fn start() -> Result<Docker> {
    let dir = workspace::target_dir().join("docker");
    fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    // The path of a socket has room for a hundred characters only.
    let socket = std::env::temp_dir().join(format!("milena-docker-{}.sock", std::process::id()));
    let host = format!("unix://{}", socket.display());
    let log = dir.join("dockerd.log");
    let file = fs::File::create(&log).map_err(|e| format!("cannot create {}: {e}", log.display()))?;
    let errors = file.try_clone().map_err(|e| format!("cannot share {}: {e}", log.display()))?;
    say(&format!("starting a Docker engine; its log: {}", log.display()));
    let mut daemon = as_root("dockerd")
        .args(["--host", &host])
        .args(["--data-root", path(&dir.join("data"))?, "--exec-root", path(&dir.join("exec"))?])
        .args(["--pidfile", path(&dir.join("pid"))?])
        // Whoever runs this chore may use the socket, whether it is root or not.
        .args(["--group", &group_of_this_user()])
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("cannot start dockerd: {e}"))?;
    let docker = Docker { socket: Some(socket), dir: Some(dir) };
    let until = Instant::now() + START_LIMIT;
    while docker.run(&["info"]).is_err() {
        let ended = matches!(daemon.try_wait(), Ok(Some(_)) | Err(_));
        if ended || Instant::now() > until {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            return Err(format!(
                "the Docker engine does not start:\n{}",
                lines[lines.len().saturating_sub(10)..].join("\n")
            ));
        }
        sleep(Duration::from_millis(200));
    }
    Ok(docker)
}

/// The program itself for root, through `sudo` for anybody else.
fn as_root(program: &str) -> Command {
    if id("-u") == "0" {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["--non-interactive", program]);
    sudo
}

fn group_of_this_user() -> String {
    id("-g")
}

fn id(what: &str) -> String {
    let out = Command::new("id").arg(what).output();
    out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default()
}

/// Where a program is; the engine's may be outside of an ordinary user's PATH.
fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()))
}

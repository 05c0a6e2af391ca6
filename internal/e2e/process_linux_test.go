package e2e

import (
	"os/exec"
	"syscall"
)

// endWithTests makes a program end when this process ends, even if it is killed.
func endWithTests(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }

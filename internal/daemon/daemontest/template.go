package daemontest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/process"
)

const (
	// MakerVar is an environment variable that says how a maker of templates
	// behaves: MakerFails, MakerHangs until it is told to give up, or
	// MakerStubborn, which does not give up either; any other way it makes one.
	MakerVar = "BANGER_TEST_MAKER"
	// FingerprintVar is the fingerprint of the fake VMM.
	FingerprintVar = "BANGER_TEST_FINGERPRINT"
	// LoadVar is the load of the host.
	LoadVar = "BANGER_TEST_LOAD"
	// PointMaking is a fault point that a maker passes when its VMM runs.
	PointMaking = "template.freeze"
)

// What MakerVar may say.
const (
	MakerFails    = "fails"
	MakerHangs    = "hangs"
	MakerStubborn = "stubborn"
)

// Memory is what the fake maker writes into the overlay of a template.
const Memory = "a guest that was frozen"

// Fingerprint is banger-vm fingerprint.
func Fingerprint(out io.Writer) error {
	text := os.Getenv(FingerprintVar)
	if text == "" {
		text = "fake"
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// MakeTemplate is banger-vm template DIR.
func MakeTemplate(path string) error {
	dir := layout.Instance(path)
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	lock, err := lockfile.Try(dir.SupervisorLock())
	if err != nil || lock == nil {
		return fmt.Errorf("the lock is taken: %v", err)
	}
	defer lock.Release()
	spec, err := nobodys(dir)
	if err != nil {
		return err
	}
	vmm := exec.Command(spec.VmmBin, dir.Dir())
	vmm.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := vmm.Start(); err != nil {
		return err
	}
	start, err := process.StartTime(vmm.Process.Pid)
	if err != nil {
		return err
	}
	how := os.Getenv(MakerVar)
	err = errors.Join(
		write(dir.VMM(), handle{Driver: "fake", PID: vmm.Process.Pid, StartTime: start, BootID: process.BootID()}),
		fault.Point(PointMaking))
	switch how {
	case MakerFails:
		err = errors.New("the guest cannot be warmed; try: less /its/log\nits last words")
	case MakerHangs:
		<-told
		err = errors.New("told to give up")
	case MakerStubborn:
		vmm.Wait()
	}
	vmm.Process.Kill()
	vmm.Wait()
	if err != nil {
		return err
	}
	return freeze(dir)
}

// nobodys reads the spec of a template, which must name nobody.
func nobodys(dir layout.Instance) (*vmv1.Spec, error) {
	spec, boot := new(vmv1.Spec), new(agentv1.Boot)
	data, err := os.ReadFile(dir.Spec())
	if err == nil {
		err = protojson.Unmarshal(data, spec)
	}
	if err == nil {
		err = proto.Unmarshal(spec.Boot, boot)
	}
	if err != nil {
		return nil, err
	}
	if !boot.Template || len(boot.SshHostKey) > 0 || len(boot.SshAuthorizedKeys) > 0 || spec.Nat || spec.Template != "" {
		return nil, fmt.Errorf("the spec of a template is somebody's: %v", spec)
	}
	if spec.OverlayDisk != dir.Overlay() || spec.WorkDisk != dir.Work() {
		return nil, fmt.Errorf("the disks are elsewhere: %v", spec)
	}
	return spec, nil
}

func freeze(dir layout.Instance) error {
	f, err := os.OpenFile(dir.Overlay(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(Memory)
	return errors.Join(err, os.Remove(dir.VMM()),
		os.WriteFile(dir.Memory(), []byte(Memory), 0o400), os.WriteFile(dir.DeviceState(), []byte("devices"), 0o400))
}

// restore looks whether the template of a spec could be restored.
func (s *supervisor) restore() (origin, problem string) {
	if s.spec.Template == "" {
		return "boot", s.spec.TemplateError
	}
	if s.behaves(Unforkable) {
		return "boot", "this VM cannot be restored"
	}
	if _, err := os.Stat(layout.Instance(s.spec.Template).Memory()); err != nil {
		return "boot", err.Error()
	}
	return "template", ""
}

// handle is what vmm.json holds.
type handle struct {
	Driver    string `json:"driver"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	BootID    string `json:"boot_id"`
}

func readHandle(path string) (handle, error) {
	var h handle
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	return h, err
}

package fake_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/drivertest"
	"github.com/banger-dev/banger/internal/driver/fake"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == fake.Command {
		fmt.Fprintln(os.Stderr, fake.Main(nil))
		os.Exit(1)
	}
	os.Exit(drivertest.Main(m, fake.New(fake.Options{Log: slog.New(slog.DiscardHandler)})))
}

func TestContract(t *testing.T) {
	drivertest.Run(t, func(t testing.TB) (driver.Driver, driver.Machine) {
		return fake.New(fake.Options{Log: slog.New(slog.DiscardHandler)}),
			driver.Machine{ID: "fake", VCPU: 1, MemoryMiB: 64, Accel: "tcg", Dir: t.TempDir()}
	})
}

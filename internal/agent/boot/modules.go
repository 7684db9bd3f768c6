package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules that the file "order" in dir names, one a line.
// A kernel with everything built in has no such file.
func loadModules(dir string) error {
	names, err := moduleOrder(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := loadModule(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("cannot load kernel module %s: %w", name, err)
		}
	}
	return nil
}

func moduleOrder(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the list of kernel modules: %w", err)
	}
	return strings.Fields(string(text)), nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

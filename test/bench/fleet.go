package main

import (
	"context"
	"errors"
	"strconv"
)

// fleet is VMs that are made one after the other and deleted together.
type fleet struct {
	bench  *bench
	prefix string
	names  []string
	vms    []vm
}

// grow makes VMs, with args for vm create, until there are n.
func (f *fleet) grow(ctx context.Context, n int, args ...string) error {
	for len(f.names) < n {
		name := f.prefix + strconv.Itoa(len(f.names))
		made, err := f.bench.home.start(ctx, append([]string{"vm", "create", "--json", "--name", name}, args...)...)
		if err != nil {
			return err
		}
		f.names, f.vms = append(f.names, name), append(f.vms, made)
	}
	return nil
}

// end deletes them, also when ctx has ended.
func (f *fleet) end(ctx context.Context) error {
	if len(f.names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	err := f.bench.home.run(ctx, append([]string{"vm", "delete", "--force"}, f.names...)...)
	f.names, f.vms = nil, nil
	return err
}

// each runs measure on each of them, and returns the mean.
func (f *fleet) each(measure func(vm) (float64, error)) (mean float64, err error) {
	for _, v := range f.vms {
		value, measureErr := measure(v)
		mean, err = mean+value/float64(len(f.vms)), errors.Join(err, measureErr)
	}
	return mean, err
}

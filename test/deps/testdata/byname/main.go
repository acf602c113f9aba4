// Byname is a program that a linker can drop no methods of.
package main

import (
	"fmt"
	"os"
	"reflect"
)

func main() { fmt.Println(reflect.ValueOf(os.Stdout).MethodByName(os.Args[0]).IsValid()) }

// Run compiled code on the device, without Python:  run FOLDER IN OUT [THREADS [REPEAT]]
// IN and OUT are folders: input i of interface.txt is IN/i.bin, output i becomes OUT/i.bin (raw, C order, little-endian).
//   g++ -O2 -std=c++17 run.cc -I tvm_ffi/include -L . -Wl,-rpath,'$ORIGIN' -ltvm_runtime -ltvm_ffi -o run
// The headers and libtvm_ffi.so are in the package apache-tvm-ffi, libtvm_runtime.so is in apache-tvm.
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;
using ffi::Tensor;

struct Aligned {
  void AllocData(DLTensor* t) { t->data = aligned_alloc(64, (ffi::GetDataSize(*t) + 64) / 64 * 64); }
  void FreeData(DLTensor* t) { free(t->data); }
};

static Tensor Read(const std::string& dtype, const std::string& shape, const std::string& path) {
  std::vector<int64_t> sizes;
  std::stringstream text(shape == "-" ? "" : shape);
  for (std::string size; std::getline(text, size, 'x');) sizes.push_back(std::stoll(size));
  Tensor t = Tensor::FromNDAlloc(Aligned(), ffi::Shape(sizes.begin(), sizes.end()), ffi::StringToDLDataType(dtype),
                                 DLDevice{kDLCPU, 0});
  std::streamsize bytes = ffi::GetDataSize(*t.GetDLTensorPtr());
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || file.tellg() != bytes) throw std::runtime_error(path + ": not there, or not " + std::to_string(bytes) + " bytes");
  file.seekg(0).read(static_cast<char*>(t.data_ptr()), bytes);
  return t;
}

int main(int argc, char** argv) try {
  if (argc < 4) throw std::runtime_error("run FOLDER IN OUT [THREADS [REPEAT]]");
  std::string folder = argv[1], in = argv[2], out = argv[3];
  int threads = argc > 4 ? atoi(argv[4]) : 0, repeat = argc > 5 ? atoi(argv[5]) : 1;
  ffi::Module vm = ffi::Module::LoadFromFile(folder + "/model.so")->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  vm->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, /*pooled*/ 2);
  if (threads) ffi::Function::GetGlobalRequired("runtime.config_threadpool")(1, threads);
  std::vector<ffi::Any> args{"main"};
  std::ifstream interface(folder + "/interface.txt");
  if (!interface) throw std::runtime_error(folder + "/interface.txt: not there");
  for (std::string way, dtype, shape, name; interface >> way >> dtype >> shape && std::getline(interface, name);)
    if (way == "input") args.push_back(Read(dtype, shape, in + "/" + std::to_string(args.size() - 1) + ".bin"));
  std::vector<ffi::AnyView> views(args.begin(), args.end());
  ffi::Any nothing;
  vm->GetFunction("set_input").value().CallPacked(views.data(), views.size(), &nothing);
  ffi::Function invoke = vm->GetFunction("invoke_stateful").value(), output = vm->GetFunction("get_output").value();
  for (int i = 0; i < repeat; ++i) {
    auto start = std::chrono::steady_clock::now();
    invoke("main");
    std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    printf("%.3f ms\n", took.count());
  }
  int64_t count = vm->GetFunction("get_output_arity").value()("main").cast<int64_t>();
  for (int64_t i = 0; i < (count < 0 ? 1 : count); ++i) {
    Tensor t = (count < 0 ? output("main") : output("main", i)).cast<Tensor>();
    std::ofstream file(out + "/" + std::to_string(i) + ".bin", std::ios::binary);
    if (!file.write(static_cast<char*>(t.data_ptr()), ffi::GetDataSize(*t.GetDLTensorPtr()))) throw std::runtime_error(out + ": cannot write");
  }
  return 0;
} catch (const std::exception& error) {
  fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
